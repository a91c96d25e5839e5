import { app } from "../../scripts/app.js";

// Nodes 2.0 puts a widget's element on the page when the node of its id first comes there. Undo, redo and a change of tabs load a graph
// whose nodes have the ids of those before: the old nodes' elements would stay in the new ones' place, and show and change what is gone.

function remount() {
  for (const node of app.canvas.graph?.nodes ?? [])
    for (const widget of node.widgets ?? []) {
      const { element } = /** @type {{element?: HTMLElement}} */ (widget);
      const [name = ""] = element?.classList ?? [];
      if (!element || element.isConnected || !name.startsWith("dit-blocks-")) continue;
      document.querySelector(`[data-node-id="${node.id}"] .${name}`)?.replaceWith(element);
    }
}

app.registerExtension({
  name: "dit-blocks.remount",
  afterConfigureGraph() {
    requestAnimationFrame(() => requestAnimationFrame(remount)); // by then the page shows the new nodes
  },
});
