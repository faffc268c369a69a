// Elements by id and by name, and pictures on canvases.

export function byId<T extends HTMLElement = HTMLElement>(id: string): T {
  return document.getElementById(id) as T;
}

type Attributes = Record<string, string | number | boolean | EventListener | undefined>;

export function make<K extends keyof HTMLElementTagNameMap>(
  name: K, attributes: Attributes = {}, ...content: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(key, value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== undefined && value !== false) element.setAttribute(key, String(value));
  }
  element.append(...content);
  return element;
}

export function show(image: ImageData, label: string, canvas = make("canvas")): HTMLCanvasElement {
  canvas.width = image.width;
  canvas.height = image.height;
  canvas.getContext("2d")!.putImageData(image, 0, 0);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", label);
  return canvas;
}

/** Whether a button does something; one that does not keeps the focus, as one that is disabled would not. */
export function enable(button: Element, does: boolean): void {
  button.setAttribute("aria-disabled", String(!does));
}

/** What a screen reader says. */
export function announce(text: string): void {
  byId("announce").textContent = text;
}

/** What a call takes for its model where it names none. */
export const defaultModel = (prompt: string) => (prompt ? "sql_diffusion.default_text_model()" : "sql_diffusion.default_model()");

/** As PostgreSQL writes a text. */
export const literal = (text: string) => `'${text.replaceAll("'", "''")}'`;

export const seconds = (number: number) => (number < 9.95 ? `${number.toFixed(1)} s` : `${Math.round(number)} s`);

export function save(file: Blob, name: string): void {
  const url = URL.createObjectURL(file);
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
