// What the page and its worker say to each other.

/** An array of single precision, as it lies in memory. */
export interface Tensor {
  shape: number[];
  values: Float32Array;
}

export type Cell = string | null | Tensor | Uint8Array;

export interface Result {
  columns: { name: string; type: number }[];
  rows: Cell[][];
  command: string;
}

export interface Problem {
  message: string;
  hint?: string;
  detail?: string;
  code?: string;
  position?: number;
}

export interface Start {
  module: WebAssembly.Module | ArrayBuffer;
  share: Blob;
  database: Blob;
  /** whether the database comes from the server, so that none is kept yet */
  fresh: boolean;
}

export type Ask =
  | { id: number; kind: "start"; start: Start }
  | { id: number; kind: "query"; query: string; parameters?: (string | number)[]; own: boolean }
  | { id: number; kind: "paint"; model: string; schedule: string; steps: string };

export interface Step {
  step: number;
  timestep: number;
  sample: Tensor;
  guess: Tensor;
  /** of latents: what sample and guess look like, values from 0 to 1 */
  previews?: [Tensor, Tensor];
  seconds: number;
}

export type Tell =
  | { id: number; kind: "done"; value: unknown; memory: number }
  | { id: number; kind: "failed"; problem: Problem }
  | { id: number; kind: "notice"; text: string }
  | { id: number; kind: "phase"; text: string }
  | { id: number; kind: "schedule"; timesteps: number[] }
  | { id: number; kind: "step"; step: Step }
  | { id: number; kind: "sent"; query: string; seconds: number }
  | { kind: "module"; module: WebAssembly.Module }
  | { kind: "kept"; bytes: number };
