// A data directory in which the extension is made, as a tar: what the page starts from, instead of initdb and CREATE EXTENSION.
//
// The packed kernels are left out: they are ten times the parameters that they are made of, and made in seconds.

import { PGlite } from "@electric-sql/pglite";

const BLOCK = 512;

/** The files of a tar: their headers, paths and contents. */
function* entries(tar) {
  for (let at = 0; tar[at]; ) {
    const text = (from, length) => tar.toString("latin1", at + from, at + from + length).replace(/\0.*$/s, "");
    const size = parseInt(text(124, 12), 8) || 0;
    const path = (text(345, 155) + text(0, 100)).replace(/^\/+/, "");
    const end = at + BLOCK + Math.ceil(size / BLOCK) * BLOCK;
    yield { path, header: tar.subarray(at, at + BLOCK), content: tar.subarray(at + BLOCK, end) };
    at = end;
  }
}

/** bundle: the extension's control file and script, as PGlite takes them. Gives the tar. */
export async function packedDatabase(bundle) {
  const extension = { name: "sql_diffusion", setup: async () => ({ bundlePath: bundle }) };
  const database = await PGlite.create({ initDbStartParams: ["--wal-segsize=1"], extensions: { extension } });
  const value = async (query) => Object.values((await database.query(query)).rows[0])[0];

  await database.exec("create extension sql_diffusion");
  await database.exec("truncate sql_diffusion.packed_layers cascade");
  const settings = [
    // What does not fit into work_mem goes to a file, and files are memory too.
    "work_mem = '128MB'",
    // Nothing outlives an end of PostgreSQL, and what is kept is a copy: no pages are logged whole, and no log is laid by.
    "full_page_writes = off", "wal_recycle = off", "min_wal_size = '2MB'", "max_wal_size = '8MB'",
    "jit = off",
  ];
  for (const setting of settings) await database.exec(`alter system set ${setting}`);
  // There is one connection, and no other database to make or to go to.
  for (const template of ["template0", "template1"]) {
    await database.exec(`update pg_database set datistemplate = false, datallowconn = true where datname = '${template}'`);
    await database.exec(`drop database ${template}`);
  }
  await database.exec("vacuum full");
  await database.exec("vacuum freeze analyze");
  await database.exec("select pg_switch_wal()");
  await database.exec("checkpoint");

  // Of the log all is kept from the last checkpoint on, where a start begins to read, and what was not written yet is zeros.
  const segment = await value("select pg_walfile_name(redo_lsn) from pg_control_checkpoint()");
  const name = await value("select pg_walfile_name(pg_current_wal_insert_lsn())");
  const offset = await value("select file_offset from pg_walfile_name_offset(pg_current_wal_insert_lsn())");
  const tar = Buffer.from(await (await database.dumpDataDir("none")).arrayBuffer());
  await database.close();

  const parts = [];
  for (const { path, header, content } of entries(tar)) {
    const log = /^pg_wal\/([0-9A-F]{24})$/.exec(path);
    if (log && (log[1] < segment || log[1] > name)) continue;
    // the page that is being written stays whole
    if (log && log[1] === name) content.fill(0, Math.ceil((offset + 1) / 8192) * 8192);
    parts.push(header, content);
  }
  return Buffer.concat([...parts, Buffer.alloc(2 * BLOCK)]);
}
