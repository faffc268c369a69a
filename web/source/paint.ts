// The picture as it comes out of the noise, and the steps that it went through.

import { megabytes } from "./assets";
import { database, Stopped } from "./database";
import { announce, byId, defaultModel, enable, literal, make, save, seconds, show } from "./elements";
import type { Step, Tensor } from "./messages";
import { picture, tensorText } from "./tensor";

const canvas = byId<HTMLCanvasElement>("picture");
const caption = byId("caption");
const status = byId("status");
const progress = byId<HTMLProgressElement>("progress");
const settings = byId<HTMLFormElement>("settings");
const strip = byId("strip");
const go = byId<HTMLButtonElement>("go");
const calm = matchMedia("(prefers-reduced-motion: reduce)");

const field = (name: string) => settings.elements.namedItem(name) as HTMLInputElement;

let painted: Settings = { prompt: "", seed: "", steps: "", sampler: "" };
let taken: Step[] = [];
let chosen = -1;

const named = ({ prompt, seed }: Settings) => (prompt ? `“${prompt}”, seed ${seed}` : `Seed ${seed}`);
const described = ({ prompt, seed }: Settings) => `${prompt || "A butterfly"}, seed ${seed}`;

/** The prompt of the picture that is shown, "" where there is none. */
export const prompt = () => painted.prompt;

/** The sample that a pass is made over: what the chosen step began with. */
export function before(): { sample: Tensor; timestep: number; name: string } | undefined {
  const [at, step] = [chosen, taken[chosen]];
  if (!step) return undefined;
  const earlier = taken[at - 1];
  return { sample: earlier?.sample ?? step.sample, timestep: step.timestep, name: `${named(painted)}, ${earlier ? `after step ${earlier.step}` : `step ${step.step}`}` };
}

const guesses = () => (settings.elements.namedItem("view") as RadioNodeList).value === "guess";
const look = ({ previews, sample, guess }: Step, guessed: boolean) => (previews ? picture(previews[guessed ? 1 : 0], 0, 1) : picture(guessed ? guess : sample, -1, 1));
const shown = (step: Step) => look(step, guesses());

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
  draw(shown(step), `${named(painted)}, step ${step.step}`);
  // What the network takes for the end lies beside the sample, until the sample is that itself.
  const inset = byId("guess");
  inset.hidden = guesses() || step.step === strip.childElementCount;
  show(look(step, true), `What the network takes for the end, at step ${step.step}`, inset.querySelector("canvas")!);
  caption.textContent = `${named(painted)}, step ${step.step} of ${strip.childElementCount}, timestep ${step.timestep}`;
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
  prompt: string;
  seed: string;
  steps: string;
  sampler: string;
}

function read(): Settings {
  return { prompt: field("prompt").value.trim(), seed: field("seed").value.trim(), steps: field("steps").value.trim(), sampler: field("sampler").value };
}

/** A picture's model, and its queries: its schedule, and its steps. Those with a prompt are latents, of which there is a preview. */
function queries({ seed, steps, sampler, prompt }: Settings): [string, string, string] {
  const settings = [steps && `num_inference_steps => ${Number(steps)}`, sampler && `scheduler => ${literal(sampler)}`].filter(Boolean);
  const model = defaultModel(prompt);
  const given = [prompt && literal(prompt), BigInt(seed).toString(), ...settings].filter(Boolean);
  const previews = prompt && ",\n       sql_diffusion.latent_preview(sample), sql_diffusion.latent_preview(pred_original_sample)";
  return [
    model,
    `select step, timestep\nfrom sql_diffusion.generation_schedule(${[model, ...settings].join(", ")})`,
    `select step, timestep, sample, pred_original_sample${previews}\nfrom ${prompt ? "text_to_image_steps" : "ddpm_steps"}(${given.join(", ")})`,
  ];
}

function address(of: Settings): string {
  const parameters = new URLSearchParams(Object.entries(of).filter(([, value]) => value));
  return `#${parameters}`;
}

function recall(): boolean {
  const parameters = new URLSearchParams(location.hash.slice(1));
  if (!/^-?[0-9]{1,18}$/.test(parameters.get("seed") ?? "")) return false;
  for (const name of ["prompt", "seed", "steps", "sampler"]) {
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

/** The picture that an autoencoder makes of the last latent, in the place of the last step's preview. */
async function decode(): Promise<void> {
  rest();
  progress.removeAttribute("value");
  announce((status.textContent = "Making the picture of the latent"));
  const at = taken.length - 1;
  const { rows } = await database.ask(`select sql_diffusion.finished_image($1::real[], ${defaultModel(painted.prompt)})`, [tensorText(taken[at]!.sample)]);
  const image = rows[0]![0] as Tensor;
  taken[at]!.previews = [image, image];
  fill(taken[at]!, at);
  if (chosen === at) choose(at);
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
    [status.className, status.textContent] = ["", ""];
    await database.start();
    taken = [];
    chosen = -1;
    painted = wanted;
    strip.replaceChildren();
    byId("strip-box").hidden = false;
    byId("view").hidden = false;
    announce(`Painting ${named(painted)}`);
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
    const began = performance.now();
    if (painted.prompt) await decode();
    clearInterval(ticking);
    [progress.max, progress.value] = [1, 1];
    const sum = taken.reduce((all, step) => all + step.seconds, 0);
    status.textContent = `Done: ${taken.length} steps in ${seconds(sum)}, ${seconds(sum / taken.length)} a step${painted.prompt && `; the picture of the latent in ${seconds((performance.now() - began) / 1000)}`}`;
    announce(`Done: ${named(painted)} is painted, in ${seconds((performance.now() - before) / 1000)}`);
    canvas.setAttribute("aria-label", described(painted));
  } catch (error) {
    rest();
    // PostgreSQL is made anew meanwhile, and says so
    if (error instanceof Stopped) await database.start().catch(() => undefined);
    status.textContent = error instanceof Stopped ? `Stopped after ${taken.length} steps` : (error as Error).message;
    status.className = error instanceof Stopped ? "" : "error";
    announce(status.textContent);
  }
}

/** The samplers that this database has. */
export async function samplers(): Promise<void> {
  const select = byId<HTMLSelectElement>("sampler");
  const value = select.value;
  const { rows } = await database.ask("select name\nfrom sql_diffusion.schedulers()");
  select.replaceChildren(new Option("its own", ""), ...rows.map(([name]) => new Option(String(name), String(name))));
  select.value = value;
}

export async function prepare(): Promise<void> {
  const first = document.querySelector<HTMLImageElement>(".gallery img");
  if (first) {
    await first.decode().catch(() => undefined);
    [canvas.width, canvas.height] = [first.naturalWidth, first.naturalHeight];
    canvas.getContext("2d")!.drawImage(first, 0, 0);
    last = canvas.getContext("2d")!.getImageData(0, 0, canvas.width, canvas.height);
    const { prompt = "", seed = "" } = first.parentElement!.dataset;
    painted = { ...painted, prompt, seed };
    canvas.setAttribute("aria-label", `${described(painted)}, painted earlier`);
    caption.textContent = `${named(painted)}, painted earlier by the same SQL`;
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
      for (const name of ["prompt", "seed"]) field(name).value = button.dataset[name]!;
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
    // each pixel a few wide, as image_png does with a scale
    const scale = Math.ceil(512 / canvas.width);
    const large = make("canvas", { width: scale * canvas.width, height: scale * canvas.height });
    const context = large.getContext("2d")!;
    context.imageSmoothingEnabled = false;
    context.drawImage(canvas, 0, 0, large.width, large.height);
    large.toBlob((file) => file && save(file, `${described(painted).replace(/[^\p{L}\p{N}]+/gu, "-").toLowerCase()}.png`), "image/png");
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
