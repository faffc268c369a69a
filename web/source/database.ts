// The page's side of the worker: started when it is wanted, one job at a time, ended by stop.

import { load, megabytes, missing, type Asset } from "./assets";
import type { Ask, Problem, Result, Start, Step, Tell } from "./messages";
import { forget, kept } from "./store";

export class Stopped extends Error {}

export class Refused extends Error {
  constructor(readonly problem: Problem) {
    super(problem.message);
  }
}

export interface Hooks {
  notice?: (text: string) => void;
  schedule?: (timesteps: number[]) => void;
  step?: (step: Step) => void;
}

type Job = { id: number; hooks: Hooks; resolve: (value: unknown) => void; reject: (reason: Error) => void };

export type State = "absent" | "loading" | "ready" | "busy";

/** Without the id, of each kind for itself. */
type Wanted<T> = T extends unknown ? Omit<T, "id"> : never;

class Database extends EventTarget {
  state: State = "absent";
  memory = 0;
  /** What is to be asked as soon as PostgreSQL is there for the first time, before anything else has its turn. */
  introduce: (() => Promise<void>) | undefined;
  #worker: Worker | undefined;
  #module: WebAssembly.Module | undefined;
  #share: Blob | undefined;
  #job: Job | undefined;
  #starting: Promise<void> | undefined;
  #last = 0;

  /** What a start would have to bring from the network, in bytes; 0 as well where it needs nothing from there. */
  async toLoad(): Promise<number> {
    const names: Asset[] = ["postgres.wasm", "share.data"];
    if (!(await kept().catch(() => undefined))) names.push("database.tar");
    return missing(names);
  }

  #enter(state: State): void {
    this.state = state;
    this.dispatchEvent(new Event("state"));
  }

  #phase(text: string, share?: number): void {
    this.dispatchEvent(new CustomEvent("phase", { detail: { text, share } }));
  }

  /** Resolves when PostgreSQL is up. */
  start(): Promise<void> {
    this.#starting ??= this.#start().catch((error: Error) => {
      this.#starting = undefined;
      this.#end();
      this.#enter("absent");
      throw error;
    });
    return this.#starting;
  }

  async #start(): Promise<void> {
    this.#enter("loading");
    const own = await kept().catch(() => undefined);
    try {
      await this.#boot(own);
    } catch (error) {
      // what was kept is of no use: better the database of the first visit than none
      if (!own || !(error instanceof Refused)) throw error;
      this.#end();
      await this.#boot(undefined);
    }
    this.#enter("ready");
    const { introduce } = this;
    this.introduce = undefined;
    await introduce?.();
  }

  async #boot(own: Blob | undefined): Promise<void> {
    const names: Asset[] = ["postgres.wasm", "share.data", "database.tar"];
    const total = await missing(own ? names.slice(0, 2) : names);
    let loaded = 0;
    const progress = (bytes: number) => {
      loaded += bytes;
      this.#phase(`Loading ${megabytes(loaded)} of ${megabytes(total)}`, loaded / total);
    };
    this.#phase(total ? `Loading ${megabytes(total)}` : "Starting PostgreSQL");
    const [wasm, share, database] = await Promise.all([
      this.#module ?? load("postgres.wasm", progress).then((file) => file.arrayBuffer()),
      this.#share ?? load("share.data", progress),
      own ?? load("database.tar", progress),
    ]);
    this.#share = share;
    this.#phase("Starting PostgreSQL");
    // A worker from the page's own text is bound by the page's Content-Security-Policy, whatever the server's headers are.
    const script = URL.createObjectURL(new Blob([await (await fetch(WORKER)).text()], { type: "text/javascript" }));
    const worker = new Worker(script, { type: "module" });
    this.#worker = worker;
    worker.addEventListener("message", ({ data }: MessageEvent<Tell>) => worker === this.#worker && this.#hear(data));
    worker.addEventListener("error", (event) => this.#job?.reject(new Error(event.message || "The worker has failed")));
    const start: Start = { module: wasm, share, database, fresh: !own };
    await this.#send({ kind: "start", start }, {}).finally(() => URL.revokeObjectURL(script));
  }

  #hear(tell: Tell): void {
    if (tell.kind === "module") this.#module = tell.module;
    else if (tell.kind === "kept") this.dispatchEvent(new CustomEvent("kept", { detail: tell.bytes }));
    else if (tell.kind === "sent") this.dispatchEvent(new CustomEvent("sent", { detail: tell }));
    else if (tell.kind === "phase") this.#phase(tell.text);
    else if (tell.id === this.#job?.id) {
      const { hooks, resolve, reject } = this.#job;
      if (tell.kind === "notice") hooks.notice?.(tell.text);
      else if (tell.kind === "schedule") hooks.schedule?.(tell.timesteps);
      else if (tell.kind === "step") hooks.step?.(tell.step);
      else if (tell.kind === "failed") reject(new Refused(tell.problem));
      else {
        this.memory = tell.memory;
        resolve(tell.value);
      }
    }
  }

  #send(ask: Wanted<Ask>, hooks: Hooks): Promise<unknown> {
    return new Promise((resolve, reject) => {
      this.#job = { id: ++this.#last, hooks, resolve, reject };
      this.#worker!.postMessage({ ...ask, id: this.#job.id });
    });
  }

  async #run(ask: Wanted<Ask>, hooks: Hooks): Promise<unknown> {
    if (this.state !== "ready") throw new Error("PostgreSQL is busy: it has one connection");
    this.#enter("busy");
    const worker = this.#worker;
    try {
      return await this.#send(ask, hooks);
    } finally {
      if (worker === this.#worker) this.#enter("ready");
    }
  }

  /** A query of the page's own, which is shown; $1 and so on stand for the parameters. */
  async ask(query: string, parameters?: (string | number)[]): Promise<Result> {
    return (await this.#run({ kind: "query", query, parameters, own: true }, {})) as Result;
  }

  /** Statements of whoever sits there. */
  async query(query: string, hooks: Hooks): Promise<Result[]> {
    return (await this.#run({ kind: "query", query, own: false }, hooks)) as Result[];
  }

  async paint(model: string, schedule: string, steps: string, hooks: Hooks): Promise<void> {
    await this.#run({ kind: "paint", model, schedule, steps }, hooks);
  }

  #end(): void {
    this.#worker?.terminate();
    this.#worker = undefined;
  }

  /** Ends whatever runs, at once, and makes PostgreSQL anew from what was kept. */
  async stop(): Promise<void> {
    if (this.state !== "busy") return;
    const job = this.#job;
    this.#end();
    this.#starting = undefined;
    job?.reject(new Stopped("Stopped"));
    await this.start();
  }

  /** The database of the first visit. */
  async reset(): Promise<void> {
    this.#end();
    this.#starting = undefined;
    await forget();
    await this.start();
  }
}

export const database = new Database();
