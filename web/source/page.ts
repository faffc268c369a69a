import { megabytes } from "./assets";
import { database } from "./database";
import { byId, enable } from "./elements";
import * as layers from "./layers";
import "./log";
import * as painting from "./paint";
import * as query from "./query";

byId("fact-bytes").textContent = megabytes(Object.values(ASSETS).reduce((sum, asset) => sum + asset.bytes, 0));
byId("fact-version").textContent = `PGlite ${PGLITE_VERSION}, PostgreSQL compiled to WebAssembly`;
database.addEventListener("kept", (event) => {
  const { detail } = event as CustomEvent<number>;
  byId("fact-kept").textContent = detail ? `It takes ${megabytes(detail)}.` : "This browser has no room for it, so it ends with the visit.";
});

const reset = byId("reset");
reset.addEventListener("click", () => database.state === "ready" && confirm("Remove the database that is kept here, with every table that you made?") && void database.reset());

database.addEventListener("state", () => {
  enable(reset, database.state === "ready");
  if (database.memory) byId("fact-memory").textContent = `${megabytes(database.memory)} of WebAssembly`;
});

database.introduce = async () => {
  const { rows } = await database.ask("select version()");
  byId("fact-version").textContent = String(rows[0]![0]).replace(/ on .*/, "");
  await painting.samplers();
  await layers.list();
};

query.prepare();
layers.prepare();
await painting.prepare();

if ("serviceWorker" in navigator) navigator.serviceWorker.register("service-worker.js").catch(() => undefined);

// Whoever was here before waits for nothing.
if ((await database.toLoad()) === 0) void database.start().catch((error: Error) => (byId("status").textContent = error.message));
