// The editor, and what its queries give: tables, and pictures where there are some.

import { database, Refused, Stopped } from "./database";
import { editor, replace } from "./editor";
import { announce, byId, enable, make, seconds, show } from "./elements";
import type { Cell, Result, Tensor } from "./messages";
import { heat, picture, statistics } from "./tensor";

const MOST_ROWS = 200;
const MOST_PLANES = 64;

const results = byId("results");
const status = byId("query-status");
const run = byId<HTMLButtonElement>("run");

function short(tensor: Tensor): string {
  const first = [...tensor.values.slice(0, 6)].map((value) => String(Number(value.toPrecision(4)))).join(", ");
  return `real[${tensor.shape.join("][")}]  ${first}${tensor.values.length > 6 ? ", …" : ""}`;
}

/** The planes of a tensor (…, height, width) side by side, each by itself in colours. */
export function planes(tensor: Tensor, name: string, most = Infinity): HTMLElement {
  const [height, width] = tensor.shape.slice(-2) as [number, number];
  const count = tensor.values.length / (height * width);
  const box = make("div", { class: `planes ${width <= 4 ? "tiny" : ""}` });
  for (let at = 0; at < Math.min(count, most); at++) {
    box.append(show(heat(tensor.values.subarray(at * height * width, (at + 1) * height * width), height, width), `${name} ${at + 1}`));
  }
  if (count > most) box.append(make("span", {}, `and ${count - most} more`));
  return box;
}

function tensor(value: Tensor): Node {
  const { shape } = value;
  const [channels = 0, height = 0, width = 0] = shape;
  if (shape.length === 3 && (channels === 1 || channels === 3) && height >= 8 && width >= 8) {
    const { least } = statistics(value.values);
    const label = `An image, ${height} high and ${width} wide`;
    return show(least < 0 ? picture(value, -1, 1) : picture(value, 0, 1), label, make("canvas", { class: "image", title: short(value) }));
  }
  if (shape.length >= 3 && height > 1) return make("div", {}, make("code", {}, short(value)), planes(value, "plane", MOST_PLANES));
  return make("code", {}, short(value));
}

function bytes(value: Uint8Array): Node {
  if (value[0] !== 0x89 || value[1] !== 0x50) return make("code", {}, `${value.length} bytes`);
  const url = URL.createObjectURL(new Blob([value as Uint8Array<ArrayBuffer>], { type: "image/png" }));
  const image = make("img", { src: url, alt: `A PNG of ${value.length} bytes`, class: "image", load: () => URL.revokeObjectURL(url) });
  return image;
}

function cell(value: Cell): Node | string {
  if (value === null) return make("i", { class: "null" }, "null");
  if (typeof value === "string") return value.includes("\n") ? make("pre", { tabindex: 0 }, value) : value;
  return value instanceof Uint8Array ? bytes(value) : tensor(value);
}

const NUMBERS = new Set([20, 21, 23, 26, 700, 701, 1700]);

function table({ columns, rows, command }: Result): Node {
  if (!columns.length) return make("p", { class: "command" }, command);
  const head = make("tr", {}, ...columns.map((column) => make("th", { scope: "col" }, column.name)));
  const body = rows.slice(0, MOST_ROWS).map((row) =>
    make("tr", {}, ...row.map((value, place) => make("td", { class: NUMBERS.has(columns[place]!.type) ? "number" : undefined }, cell(value)))));
  const count = `${rows.length} ${rows.length === 1 ? "row" : "rows"}${rows.length > MOST_ROWS ? `, the first ${MOST_ROWS} of which are shown` : ""}`;
  return make("div", { class: "table", tabindex: 0, role: "group", "aria-label": count },
    make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)), make("p", { class: "command" }, count));
}

function problem(error: Refused): Node {
  const { message, detail, hint, code } = error.problem;
  const lines: Node[] = [make("p", {}, make("b", {}, message), code ? make("code", {}, ` ${code}`) : "")];
  if (detail) lines.push(make("p", {}, detail));
  if (hint) lines.push(make("p", {}, hint));
  return make("div", { class: "error" }, ...lines);
}

export function prepare(): void {
  const view = editor(byId("editor"), () => void execute(), EXAMPLES[0]!.query);

  async function execute(): Promise<void> {
    if (database.state === "busy" || database.state === "loading") return;
    const began = performance.now();
    const gone = () => seconds((performance.now() - began) / 1000);
    let told = "";
    announce((status.textContent = "Running"));
    const ticking = setInterval(() => (status.textContent = `${database.state === "loading" ? "Starting" : "Running"}, ${gone()}${told && ` · ${told}`}`), 500);
    try {
      await database.start();
      const given = await database.query(view.state.doc.toString(), { notice: (text) => (told = text) });
      results.replaceChildren(...given.map(table));
      status.textContent = `Done in ${gone()}`;
    } catch (error) {
      if (error instanceof Refused) results.replaceChildren(problem(error));
      status.textContent = error instanceof Stopped ? "Stopped: what the query did is undone" : error instanceof Refused ? "Refused" : (error as Error).message;
    } finally {
      clearInterval(ticking);
      announce(status.textContent);
    }
  }

  for (const { title, query } of EXAMPLES) {
    byId("examples").append(make("button", { type: "button", class: "quiet", click: () => {
      replace(view, query);
      view.focus();
    } }, title));
  }
  run.addEventListener("click", () => void execute());
  byId("stop-query").addEventListener("click", () => void database.stop());
  database.addEventListener("state", () => {
    enable(run, database.state === "absent" || database.state === "ready");
    enable(byId("stop-query"), database.state === "busy");
  });
}
