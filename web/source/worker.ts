// PostgreSQL, in a worker: the page never waits for it, and stops it by ending the worker.

import { PGlite, messages, protocol } from "@electric-sql/pglite";
import type { Ask, Cell, Problem, Result, Start, Step, Tell, Tensor } from "./messages";
import { keep } from "./store";
import { parseTensor } from "./tensor";

const BYTEA = 17;
const REALS = 1021;

let database: PGlite;
let written = "";

const tell = (message: Tell) => postMessage(message);

function bytes(text: string): Uint8Array {
  return Uint8Array.from({ length: text.length / 2 - 1 }, (_, at) => parseInt(text.substring(2 * at + 2, 2 * at + 4), 16));
}

function cell(text: string | null, type: number): Cell {
  if (text === null) return null;
  if (type === REALS) return parseTensor(text);
  if (type === BYTEA) return bytes(text);
  return text;
}

function problem(error: unknown): Problem {
  const { message, hint, detail, code, position } = error as Problem;
  return { message: String(message ?? error), hint, detail, code, position: position && Number(position) };
}

/** Statements as text, and what each gives; with values for $1 and so on, one statement. */
async function send(id: number, query: string, parameters?: (string | number)[]): Promise<Result[]> {
  const onNotice = (notice: messages.NoticeMessage) => tell({ id, kind: "notice", text: notice.message ?? "" });
  if (parameters) {
    const parsers = { [REALS]: parseTensor, [BYTEA]: bytes };
    const { fields, rows } = await database.query<Cell[]>(query, parameters, { rowMode: "array", parsers, onNotice });
    return [{ columns: fields.map((field) => ({ name: field.name, type: field.dataTypeID })), rows, command: "" }];
  }
  const results: Result[] = [];
  let columns: Result["columns"] = [];
  let rows: Cell[][] = [];
  for (const message of await database.execProtocolStream(protocol.serialize.query(query), { onNotice })) {
    if (message instanceof messages.RowDescriptionMessage) {
      columns = message.fields.map((field) => ({ name: field.name, type: field.dataTypeID }));
    } else if (message instanceof messages.DataRowMessage) {
      rows.push(message.fields.map((text, place) => cell(text, columns[place]!.type)));
    } else if (message instanceof messages.CommandCompleteMessage) {
      results.push({ columns, rows, command: message.text });
      columns = [];
      rows = [];
    }
  }
  return results;
}

/** A query of the page's own, which it shows. */
async function ask(id: number, query: string, parameters?: (string | number)[]): Promise<Result> {
  const began = performance.now();
  const results = await send(id, query, parameters);
  tell({ id, kind: "sent", query, seconds: (performance.now() - began) / 1000 });
  return results.at(-1)!;
}

async function start(id: number, given: Start): Promise<void> {
  let module = given.module;
  if (module instanceof ArrayBuffer) {
    module = await WebAssembly.compile(module);
    tell({ kind: "module", module });
  }
  database = await PGlite.create({
    pgliteWasmModule: module,
    // there is nothing to initialize
    initdbWasmModule: new WebAssembly.Module(new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0])),
    fsBundle: given.share,
    loadDataDir: given.database,
  });
  if (!given.fresh) written = await position();
}

async function position(): Promise<string> {
  return String((await send(0, "select pg_current_wal_insert_lsn()"))[0]!.rows[0]![0]);
}

/** Keeps the database where something was written since it was kept last. */
async function keepChanges(): Promise<void> {
  if (database.isInTransaction() || (await position()) === written) return;
  await send(0, "checkpoint");
  written = await position();
  try {
    const file = await database.dumpDataDir("none");
    await keep(file);
    tell({ kind: "kept", bytes: file.size });
  } catch (error) {
    // a browser that keeps nothing, or has no room: the next visit starts from the server's
    if (!(error instanceof DOMException)) throw error;
    tell({ kind: "kept", bytes: 0 });
  }
}

async function paint(id: number, model: string, schedule: string, steps: string): Promise<void> {
  // the kernels do not come along, and are made for the model's first picture
  if ((await ask(id, `select exists (select from sql_diffusion.packed_layers where model = ${model})`)).rows[0]![0] !== "t") {
    tell({ id, kind: "phase", text: "Packing the model" });
    await ask(id, `select sql_diffusion.pack(${model})`);
  }
  const { rows } = await ask(id, schedule);
  tell({ id, kind: "schedule", timesteps: rows.map((row) => Number(row[1])) });
  await ask(id, "begin");
  try {
    await ask(id, `declare painting no scroll cursor for\n${steps}`);
    for (;;) {
      const began = performance.now();
      const row = (await ask(id, "fetch 1 from painting")).rows[0];
      if (!row) break;
      const step: Step = {
        step: Number(row[0]), timestep: Number(row[1]), sample: row[2] as Tensor, guess: row[3] as Tensor,
        previews: row[4] ? [row[4] as Tensor, row[5] as Tensor] : undefined, seconds: (performance.now() - began) / 1000,
      };
      tell({ id, kind: "step", step });
    }
    await ask(id, "commit");
  } catch (error) {
    await send(id, "rollback");
    throw error;
  }
}

async function answer(asked: Ask): Promise<unknown> {
  switch (asked.kind) {
    case "start":
      return start(asked.id, asked.start);
    case "paint":
      return paint(asked.id, asked.model, asked.schedule, asked.steps);
    case "query":
      return asked.own ? ask(asked.id, asked.query, asked.parameters) : send(asked.id, asked.query);
  }
}

let turn = Promise.resolve();
addEventListener("message", ({ data }: MessageEvent<Ask>) => {
  turn = turn.then(async () => {
    try {
      const value = await answer(data);
      tell({ id: data.id, kind: "done", value, memory: database.Module.HEAPU8.byteLength });
    } catch (error) {
      tell({ id: data.id, kind: "failed", problem: problem(error) });
      return;
    }
    if (data.kind !== "query" || !data.own) await keepChanges();
  });
});
