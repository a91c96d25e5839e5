// The front end's published types by short names, and the little they leave out.

type App = import("@comfyorg/comfyui-frontend-types").ComfyApp;
type Extension = import("@comfyorg/comfyui-frontend-types").ComfyExtension;
type GraphNode = Parameters<NonNullable<Extension["nodeCreated"]>>[0];
type Graph = NonNullable<GraphNode["graph"]>;
type Link = NonNullable<ReturnType<Graph["getLink"]>>;
type SubgraphNode = Parameters<Graph["unpackSubgraph"]>[0];
type SavedSubgraph = ReturnType<SubgraphNode["subgraph"]["asSerialisable"]>;
type SavedNode = SavedSubgraph["nodes"][number];
type Widget = NonNullable<GraphNode["widgets"]>[number];
type MenuItem = NonNullable<ReturnType<NonNullable<Extension["getNodeMenuItems"]>>[number]>;
type DOMWidgetOptions = import("@comfyorg/comfyui-frontend-types").DOMWidgetOptions<string>;

/** A node as extensions meet it: of a class of ComfyUI's, on a graph. */
interface ComfyNode extends GraphNode {
  comfyClass: string;
  graph: Graph;
  widgets: Widget[];
  hideOutputImages?: boolean;
  imgs?: HTMLImageElement[];
  overIndex?: number | null;
  onExecuted?(output: { text?: string[] } & Record<string, unknown>): void;
  addDOMWidget(name: string, type: string, element: HTMLElement, options?: DOMWidgetOptions): Widget;
}

declare const LiteGraph: { createNode(type: string): ComfyNode; registered_node_types: Record<string, unknown> };

declare module "*/scripts/app.js" {
  export const app: App;
}

declare module "*/scripts/api.js" {
  export const api: App["api"];
}
