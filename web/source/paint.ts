// The picture as it comes out of the noise, and the steps that it went through.

import { megabytes } from "./assets";
import { database, Stopped } from "./database";
import { announce, byId, enable, literal, make, save, seconds, show } from "./elements";
import type { Step, Tensor } from "./messages";
import { picture } from "./tensor";

const canvas = byId<HTMLCanvasElement>("picture");
const caption = byId("caption");
const status = byId("status");
const progress = byId<HTMLProgressElement>("progress");
const settings = byId<HTMLFormElement>("settings");
const strip = byId("strip");
const go = byId<HTMLButtonElement>("go");
const calm = matchMedia("(prefers-reduced-motion: reduce)");

const field = (name: string) => settings.elements.namedItem(name) as HTMLInputElement;

let seed = "4";
let taken: Step[] = [];
let chosen = -1;

/** The sample that a pass is made over: what the chosen step began with. */
export function before(): { sample: Tensor; timestep: number; name: string } | undefined {
  const [at, step] = [chosen, taken[chosen]];
  if (!step) return undefined;
  const earlier = taken[at - 1];
  return { sample: earlier?.sample ?? step.sample, timestep: step.timestep, name: earlier ? `seed ${seed}, after step ${earlier.step}` : `seed ${seed}, step ${step.step}` };
}

const guesses = () => (settings.elements.namedItem("view") as RadioNodeList).value === "guess";
const shown = (step: Step) => picture(guesses() ? step.guess : step.sample, -1, 1);

// One picture becomes the next within half a second, where motion is welcome.
let last: ImageData | undefined;
let fading = 0;
function draw(next: ImageData, label: string): void {
  cancelAnimationFrame(fading);
  canvas.setAttribute("aria-label", label);
  const from = last;
  last = next;
  if (!from || from.width !== next.width || from.height !== next.height || calm.matches) {
    show(next, label, canvas);
    return;
  }
  const began = performance.now();
  const between = new ImageData(next.width, next.height);
  const frame = (now: number) => {
    const share = Math.min(1, Math.max(0, (now - began) / 500));
    for (let at = 0; at < next.data.length; at++) between.data[at] = from.data[at]! + (next.data[at]! - from.data[at]!) * share;
    canvas.getContext("2d")!.putImageData(share < 1 ? between : next, 0, 0);
    if (share < 1) fading = requestAnimationFrame(frame);
  };
  fading = requestAnimationFrame(frame);
}

function choose(at: number): void {
  const step = taken[at];
  if (!step) return;
  chosen = at;
  [...strip.querySelectorAll("button")].forEach((button, place) => button.setAttribute("aria-pressed", String(place === at)));
  draw(shown(step), `Seed ${seed}, step ${step.step}`);
  // What the network takes for the end lies beside the sample, until the sample is that itself.
  const inset = byId("guess");
  inset.hidden = guesses() || step.step === strip.childElementCount;
  show(picture(step.guess, -1, 1), `What the network takes for the end, at step ${step.step}`, inset.querySelector("canvas")!);
  caption.textContent = `Seed ${seed}, step ${step.step} of ${strip.childElementCount}, timestep ${step.timestep}`;
}

function place(timestep: number, at: number): void {
  const button = make("button", { type: "button", disabled: true, "aria-pressed": "false", click: () => choose(at) },
    make("canvas", { width: 64, height: 64 }), make("span", {}, String(at + 1)));
  button.setAttribute("aria-label", `Step ${at + 1}, timestep ${timestep}`);
  strip.append(make("li", {}, button));
}

function fill(step: Step, at: number): void {
  const button = strip.querySelectorAll("button")[at]!;
  show(shown(step), "", button.querySelector("canvas")!).setAttribute("aria-hidden", "true");
  button.disabled = false;
}

interface Settings {
  seed: string;
  steps: string;
  sampler: string;
  prompt: string;
}

function read(): Settings {
  return { seed: field("seed").value.trim(), steps: field("steps").value.trim(), sampler: field("sampler").value, prompt: byId("prompt-field").hidden ? "" : field("prompt").value.trim() };
}

/** The queries of a picture: its schedule, and its steps. */
function queries({ seed, steps, sampler, prompt }: Settings): [string, string] {
  const named = [steps && `num_inference_steps => ${Number(steps)}`, sampler && `scheduler => ${literal(sampler)}`].filter(Boolean);
  const model = prompt ? "sql_diffusion.default_text_model()" : "sql_diffusion.default_model()";
  const given = [prompt && literal(prompt), BigInt(seed).toString(), ...named].filter(Boolean);
  return [
    `select step, timestep\nfrom sql_diffusion.generation_schedule(${[model, ...named].join(", ")})`,
    `select step, timestep, sample, pred_original_sample\nfrom ${prompt ? "text_to_image_steps" : "ddpm_steps"}(${given.join(", ")})`,
  ];
}

function address(of: Settings): string {
  const parameters = new URLSearchParams(Object.entries(of).filter(([, value]) => value));
  return `#${parameters}`;
}

function recall(): boolean {
  const parameters = new URLSearchParams(location.hash.slice(1));
  if (!/^-?[0-9]{1,18}$/.test(parameters.get("seed") ?? "")) return false;
  for (const name of ["seed", "steps", "sampler", "prompt"]) {
    const value = parameters.get(name) ?? "";
    if (name === "sampler" && value && ![...byId<HTMLSelectElement>("sampler").options].some((option) => option.value === value)) {
      byId("sampler").append(new Option(value, value));
    }
    field(name).value = value;
  }
  return true;
}

let ticking = 0;
function tick(total: number): void {
  // Within a step nothing is told, so the bar goes on by the time that the last one took.
  const began = performance.now();
  const done = taken.length;
  const each = done ? taken.reduce((sum, step) => sum + step.seconds, 0) / done : 0;
  clearInterval(ticking);
  const move = () => {
    const gone = (performance.now() - began) / 1000;
    progress.max = total;
    progress.value = done + (each ? Math.min(0.95, gone / each) : 0);
    const left = each * (total - done) - gone;
    status.textContent = done
      ? `Step ${done + 1} of ${total} · ${seconds(each)} a step · ${left > 1 ? `${Math.round(left)} s left` : "nearly done"}`
      : `Step 1 of ${total}`;
  };
  move();
  ticking = setInterval(move, 250);
}

function rest(): void {
  clearInterval(ticking);
  progress.max = 1;
  progress.value = 0;
}

export async function paint(): Promise<void> {
  if (!settings.reportValidity() || database.state === "busy" || database.state === "loading") return;
  const wanted = read();
  history.replaceState(null, "", address(wanted));
  const before = performance.now();
  try {
    status.className = "";
    await database.start();
    taken = [];
    chosen = -1;
    seed = wanted.seed;
    strip.replaceChildren();
    byId("strip-box").hidden = false;
    byId("view").hidden = false;
    announce(`Painting seed ${seed}`);
    let total = 0;
    await database.paint(...queries(wanted), {
      schedule: (timesteps) => {
        total = timesteps.length;
        timesteps.forEach(place);
        tick(total);
      },
      step: (step) => {
        const follows = chosen === taken.length - 1;
        taken.push(step);
        fill(step, taken.length - 1);
        if (follows) choose(taken.length - 1);
        // a screen reader hears of the quarters, not of every step
        if (taken.length < total && Math.floor((4 * taken.length) / total) > Math.floor((4 * (taken.length - 1)) / total)) announce(`Step ${taken.length} of ${total}`);
        if (taken.length < total) tick(total);
      },
    });
    clearInterval(ticking);
    [progress.max, progress.value] = [1, 1];
    const sum = taken.reduce((all, step) => all + step.seconds, 0);
    status.textContent = `Done: ${taken.length} steps in ${seconds(sum)}, ${seconds(sum / taken.length)} a step`;
    announce(`Done: seed ${seed} is painted, in ${seconds((performance.now() - before) / 1000)}`);
    canvas.setAttribute("aria-label", `A butterfly, seed ${seed}`);
  } catch (error) {
    rest();
    // PostgreSQL is made anew meanwhile, and says so
    if (error instanceof Stopped) await database.start().catch(() => undefined);
    status.textContent = error instanceof Stopped ? `Stopped after ${taken.length} steps` : (error as Error).message;
    status.className = error instanceof Stopped ? "" : "error";
    announce(status.textContent);
  }
}

/** The samplers that this database has, and a field for a prompt where a model takes one. */
export async function samplers(): Promise<void> {
  const select = byId<HTMLSelectElement>("sampler");
  const value = select.value;
  const { rows } = await database.ask("select name\nfrom sql_diffusion.schedulers()");
  select.replaceChildren(new Option("its own", ""), ...rows.map(([name]) => new Option(String(name), String(name))));
  select.value = value;
  const prompted = await database.ask("select exists (select from sql_diffusion.components where component = 'text_encoder')");
  byId("prompt-field").hidden = prompted.rows[0]![0] !== "t";
}

export async function prepare(): Promise<void> {
  const first = document.querySelector<HTMLImageElement>(".gallery img");
  if (first) {
    await first.decode().catch(() => undefined);
    canvas.getContext("2d")!.drawImage(first, 0, 0, 64, 64);
    last = canvas.getContext("2d")!.getImageData(0, 0, 64, 64);
  }
  recall();

  settings.addEventListener("submit", (event) => {
    event.preventDefault();
    void paint();
  });
  byId("stop").addEventListener("click", () => void database.stop());
  byId("dice").addEventListener("click", () => (field("seed").value = String(crypto.getRandomValues(new Uint32Array(1))[0]! % 100_000)));
  for (const button of document.querySelectorAll<HTMLButtonElement>(".gallery button")) {
    button.addEventListener("click", () => {
      if (button.ariaDisabled === "true") return;
      field("seed").value = button.dataset.seed!;
      field("steps").value = field("sampler").value = "";
      void paint();
    });
  }
  byId("view").addEventListener("change", () => {
    taken.forEach(fill);
    choose(chosen);
  });
  addEventListener("hashchange", () => recall() && byId("paint").scrollIntoView());
  byId("link").addEventListener("click", async () => {
    history.replaceState(null, "", address(read()));
    try {
      await navigator.clipboard.writeText(location.href);
      status.textContent = "The link is copied";
    } catch {
      status.textContent = `The link: ${location.href}`;
    }
    announce("The link is copied, and stands in the address");
  });
  byId("download").addEventListener("click", () => {
    // each pixel eight wide, as image_png does with scale => 8
    const large = make("canvas", { width: 8 * canvas.width, height: 8 * canvas.height });
    const context = large.getContext("2d")!;
    context.imageSmoothingEnabled = false;
    context.drawImage(canvas, 0, 0, large.width, large.height);
    large.toBlob((file) => file && save(file, `butterfly-${seed}.png`), "image/png");
  });

  const bytes = await database.toLoad();
  go.textContent = bytes ? `Load PostgreSQL (${megabytes(bytes)}) and paint` : "Paint";
  database.addEventListener("phase", (event) => {
    const { text, share } = (event as CustomEvent<{ text: string; share?: number }>).detail;
    status.textContent = text;
    if (share === undefined) progress.removeAttribute("value");
    else [progress.max, progress.value] = [1, share];
  });
  database.addEventListener("state", () => {
    const { state } = database;
    for (const button of [go, ...document.querySelectorAll(".gallery button")]) enable(button, state === "absent" || state === "ready");
    enable(byId("stop"), state === "busy");
    if (state === "ready") {
      go.textContent = "Paint";
      if (!progress.hasAttribute("value")) rest();
      if (/^(Starting|Packing|Loading)/.test(status.textContent)) status.textContent = "PostgreSQL is up";
    }
  });
}
