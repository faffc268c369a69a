// The plan of the network, and what each of its steps gives.

import { database, Stopped } from "./database";
import { highlighted } from "./editor";
import { announce, byId, defaultModel, enable, make, seconds, show } from "./elements";
import type { Tensor } from "./messages";
import { before, prompt } from "./paint";
import { planes } from "./query";
import { heat, statistics, tensorText } from "./tensor";

interface Row {
  step: number;
  operation: string;
  key: string;
  inputs: string;
  from: number;
  to: number;
  level: number | undefined;
  settings: string;
}

const body = byId("plan").querySelector("tbody")!;
const detail = byId("layer");
const status = byId("pass-status");
const pass = byId<HTMLButtonElement>("pass");

/** The plan of the model with a prompt, and of the one without. */
const plans = new Map<boolean, Row[]>();
let plan: Row[] = [];
let outputs = new Map<number, Tensor>();
let over = "";
let current = 0;

async function list(): Promise<void> {
  for (const text of ["", "a prompt"]) {
    const { rows } = await database.ask(
      `select step, operation, key, inputs::text, in_channels, out_channels, level, settings::text\nfrom sql_diffusion.plan(${defaultModel(text)})`,
    );
    plans.set(text !== "", rows.map(([step, operation, key, inputs, from, to, level, settings]) => ({
      step: Number(step), operation: String(operation), key: String(key ?? ""), inputs: String(inputs), from: Number(from), to: Number(to),
      level: level === null ? undefined : Number(level), settings: String(settings ?? ""),
    })));
  }
  turn();
}

/** To the plan of the network that paints the picture that is shown. */
function turn(): void {
  const wanted = plans.get(prompt() !== "");
  if (!wanted || wanted === plan) return;
  plan = wanted;
  outputs = new Map();
  current = 0;
  status.textContent = "";
  detail.replaceChildren(make("p", { class: "hint" }, "Choose a row."));
  body.replaceChildren(...plan.map((row) => {
    const button = make("button", { type: "button", click: () => void choose(row) }, row.operation);
    button.setAttribute("aria-label", `Step ${row.step}, ${row.operation} ${row.key}`);
    const line = make("tr", { click: (event) => event.target instanceof HTMLButtonElement || void choose(row) },
      make("td", { class: "number" }, String(row.step)), make("td", { class: `level-${row.level ?? "none"}` }, button, make("span", { class: "key" }, row.key)),
      make("td", { class: "number" }, row.from === row.to ? String(row.to) : `${row.from} → ${row.to}`), make("td", { class: "thumb" }));
    return line;
  }));
}

// The functions' texts, asked when they are wanted for the first time.
const texts = new Map<string, [string, string]>();
async function text(operation: string): Promise<[string, string]> {
  if (!texts.has(operation)) {
    const { rows } = await database.ask(
      "select obj_description(p.oid), pg_get_functiondef(p.oid)\nfrom pg_proc p\nwhere p.pronamespace = 'sql_diffusion'::regnamespace\n  and p.proname = $1",
      [`run_${operation}`],
    );
    texts.set(operation, rows[0] ? [String(rows[0][0] ?? ""), String(rows[0][1])] : ["What comes from outside.", ""]);
  }
  return texts.get(operation)!;
}

const round = (value: number) => String(Number(value.toPrecision(4)));

async function choose(row: Row): Promise<void> {
  current = row.step;
  [...body.rows].forEach((line, at) => {
    const chosen = plan[at]!.step === row.step;
    line.classList.toggle("chosen", chosen);
    line.querySelector("button")!.setAttribute("aria-pressed", String(chosen));
  });
  const output = outputs.get(row.step);
  const parts: Node[] = [
    make("h3", {}, `${row.step} · ${row.operation}`, row.key ? make("code", {}, ` ${row.key}`) : ""),
    make("p", { class: "hint" }, `Takes ${row.inputs === "{}" ? "what comes from outside" : `the results of the steps ${row.inputs.slice(1, -1).replaceAll(",", ", ")}`}.${row.settings && row.settings !== "{}" ? ` Settings: ${row.settings}` : ""}`),
  ];
  if (output) {
    const { least, greatest, mean, deviation } = statistics(output.values);
    const facts: [string, string][] = [["shape", output.shape.join(" × ")], ["mean", round(mean)], ["standard deviation", round(deviation)], ["least", round(least)], ["greatest", round(greatest)]];
    parts.push(make("dl", { class: "statistics" }, ...facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value)))));
    if (output.shape.length === 3) parts.push(planes(output, "feature map"));
    else if (output.shape.length === 2) parts.push(make("div", { class: "planes tokens" }, show(heat(output.values, ...(output.shape as [number, number])), "The tokens, a row each")));
    else parts.push(make("div", { class: "planes vector" }, show(heat(output.values, 1, output.values.length), "The vector, a stripe a number")));
    parts.push(make("p", { class: "hint" }, `Of ${over}. Each map in its own colours, from its least value, dark, to its greatest.`));
  } else {
    parts.push(make("p", { class: "hint" }, "Run one pass to see what this step gives."));
  }
  detail.replaceChildren(...parts);
  if (database.state === "ready" || texts.has(row.operation)) {
    const [comment, definition] = await text(row.operation);
    if (current !== row.step) return;
    detail.append(make("h4", {}, "Its SQL"), make("p", { class: "hint" }, comment));
    if (definition) detail.append(highlighted(definition));
  }
}

async function run(): Promise<void> {
  if (database.state === "busy" || database.state === "loading") return;
  const began = performance.now();
  const ticking = setInterval(() => (status.textContent = `${database.state === "loading" ? "Starting" : "Running"}, ${seconds((performance.now() - began) / 1000)}`), 250);
  try {
    await database.start();
    const chosen = before();
    const model = defaultModel(prompt());
    let sample: string;
    if (chosen) sample = tensorText(chosen.sample);
    else {
      const { rows } = await database.ask(
        `select sample\nfrom sql_diffusion.randn(sql_diffusion.manual_seed(4), sql_diffusion.sample_shape(sql_diffusion.component_config(${model})))`,
      );
      sample = tensorText(rows[0]![0] as Tensor);
    }
    const timestep = chosen?.timestep ?? 999;
    const told = prompt() && `,\n       sql_diffusion.text_encoder(sql_diffusion.tokenize($3, ${model}, 'tokenizer'), ${model})`;
    const { rows } = await database.ask(
      `select step, hidden\nfrom sql_diffusion.unet_steps($1::real[], $2::double precision, ${model}${told})`, [sample, timestep, ...(told ? [prompt()] : [])],
    );
    over = `${chosen?.name ?? "the noise of seed 4"}, at timestep ${timestep}`;
    outputs = new Map(rows.map(([step, hidden]) => [Number(step), hidden as Tensor]));
    [...body.rows].forEach((line, at) => {
      const output = outputs.get(plan[at]!.step);
      if (output?.shape.length !== 3) return;
      const [, height, width] = output.shape as [number, number, number];
      line.querySelector(".thumb")!.replaceChildren(show(heat(output.values.subarray(0, height * width), height, width), `The first feature map of step ${plan[at]!.step}`));
    });
    clearInterval(ticking);
    status.textContent = `${outputs.size} results in ${seconds((performance.now() - began) / 1000)}, of ${over}`;
    await choose(plan.find((row) => row.step === current) ?? plan.find((row) => row.operation === "conv2d") ?? plan[0]!);
  } catch (error) {
    status.textContent = error instanceof Stopped ? "Stopped" : (error as Error).message;
  } finally {
    clearInterval(ticking);
    announce(status.textContent);
  }
}

export function prepare(): void {
  pass.addEventListener("click", () => void run());
  database.addEventListener("state", () => {
    enable(pass, database.state === "absent" || database.state === "ready");
    turn();
  });
}

export { list };
