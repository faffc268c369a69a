// Builds the page into the folder that is named: node build.js FOLDER BUNDLE README
//
// BUNDLE is the extension as PGlite takes it, README the file whose queries and pictures the page offers.

import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { build } from "esbuild";
import { packedDatabase } from "./pack.js";
import { halved } from "./png.js";

const [folder, bundle, readme] = process.argv.slice(2);
if (!readme) throw new Error("usage: node build.js FOLDER BUNDLE README");
const here = dirname(fileURLToPath(import.meta.url));
const pglite = join(here, "node_modules/@electric-sql/pglite/dist");

const hash = (content) => createHash("sha256").update(content).digest("hex").slice(0, 12);

const read = await readFile(readme, "utf8");

/** The queries that are shown: the statement of the README that begins so. */
async function examples() {
  const statements = [...read.matchAll(/```sql\n(.*?)```/gs)].map((match) => match[1].trim());
  return JSON.parse(await readFile(join(here, "source/examples.json"), "utf8")).map((example) => {
    if (!example.readme) return example;
    const query = statements.find((statement) => statement.startsWith(example.readme));
    if (!query) throw new Error(`the README has no query that begins with ${example.readme}`);
    return { title: example.title, query };
  });
}

/** The pictures of the README to begin with: three of prompts, which stand for them there, and those of seeds alone. */
const pictured = [...read.matchAll(/src="(doc\/pictures\/(prompt|butterfly)-(\d+)\.png)"[^>]* alt="([^"]*)"/g)]
  .map(([, path, kind, seed, alt]) => ({ path: join(dirname(readme), path), name: `${kind}-${seed}`, seed, prompt: kind === "prompt" ? alt : "" }));
const shown = [...pictured.filter(({ prompt }) => prompt).slice(0, 3), ...pictured.filter(({ prompt }) => !prompt)];

await rm(folder, { recursive: true, force: true });
await mkdir(folder, { recursive: true });

// What is large is compressed here, as not every server does it, and named so that none takes the compression for its own. A name
// holds a hash of the content, so a file never changes.
const assets = {};
for (const [name, content] of Object.entries({
  "postgres.wasm": await readFile(join(pglite, "pglite.wasm")),
  "share.data": await readFile(join(pglite, "pglite.data")),
  "database.tar": await packedDatabase(pathToFileURL(resolve(bundle))),
})) {
  const packed = execFileSync("gzip", ["-9n"], { input: content, maxBuffer: Infinity }); // smaller than Node.js makes it
  const file = `${name}.${hash(content)}.bin`;
  await writeFile(join(folder, file), packed);
  assets[name] = { file, bytes: packed.length };
}

const { version } = JSON.parse(await readFile(join(pglite, "../package.json"), "utf8"));
const common = {
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  legalComments: "none",
  logLevel: "warning",
  write: false,
  // PGlite would look for its files beside the script; it is given them.
  define: { "import.meta.url": '"https://files.invalid/"', PGLITE_VERSION: JSON.stringify(version) },
  // asked for by PGlite where it finds itself in Node.js
  external: ["node:*"],
};
const script = async (name, define = {}) => {
  const result = await build({ ...common, entryPoints: [join(here, "source", `${name}.ts`)], define: { ...common.define, ...define } });
  return result.outputFiles[0].contents;
};
const put = async (name, ending, content) => {
  const file = `${name}.${hash(content)}.${ending}`;
  await writeFile(join(folder, file), content);
  return file;
};

const worker = await put("worker", "js", await script("worker", { ASSETS: JSON.stringify(assets) }));
const page = await put("page", "js", await script("page", {
  ASSETS: JSON.stringify(assets),
  WORKER: JSON.stringify(worker),
  EXAMPLES: JSON.stringify(await examples()),
}));
const style = await put("page", "css", (await build({ ...common, entryPoints: [join(here, "source/page.css")] })).outputFiles[0].contents);
const icon = await put("butterfly", "svg", await readFile(join(here, "source/butterfly.svg")));

const pictures = await Promise.all(shown.map(async ({ path, name }) => put(name, "png", halved(await readFile(path)))));
const gallery = shown.map(({ seed, prompt }, at) => `<button type="button" data-seed="${seed}" data-prompt="${prompt}"><img src="${pictures[at]}" width="64" height="64" alt=""><span>${prompt || seed}</span></button>`);

const html = (await readFile(join(here, "source/index.html"), "utf8"))
  .replaceAll("page.css", style)
  .replaceAll("page.js", page)
  .replaceAll("butterfly.svg", icon)
  .replace("<!-- gallery -->", gallery.join("\n      "));
await writeFile(join(folder, "index.html"), html);

// What is loaded without being asked: the page itself. The rest comes when it is wanted, and is kept then.
const shell = ["./", worker, page, style, icon, ...pictures];
await writeFile(join(folder, "service-worker.js"), await script("service-worker", {
  SHELL: JSON.stringify(shell),
  KEPT: JSON.stringify(Object.values(assets).map((asset) => asset.file)),
  CACHE: JSON.stringify(`sql_diffusion ${hash(html + JSON.stringify([shell, assets]))}`),
}));

const total = Object.values(assets).reduce((sum, asset) => sum + asset.bytes, 0);
console.log(`${folder}: the page and, once it is wanted, ${(total / 1e6).toFixed(1)} MB`);
