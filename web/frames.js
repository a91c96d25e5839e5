import { make } from "./panel.js";

// A frame of black and white, which is seen on every colour.

export function makeFrame() {
  const style = {
    position: "absolute",
    display: "none",
    outline: "1.5px solid #000",
    boxShadow: "inset 0 0 0 1.5px #fff",
    pointerEvents: "none",
  };
  return make("div", style, { class: "dit-blocks-frame" });
}

/** @param {HTMLElement} frame @param {import("./grid.js").Box | null} box in pixels; null: none is shown */
export function putFrame(frame, box) {
  frame.style.display = box ? "" : "none";
  if (box) Object.assign(frame.style, { left: `${box.x}px`, top: `${box.y}px`, width: `${box.width}px`, height: `${box.height}px` });
}
