// The large files: fetched once they are wanted, kept, and told how far they are.

export const FILES = "sql_diffusion files";

export type Asset = keyof typeof ASSETS;

export const megabytes = (bytes: number) => `${(bytes / 1e6).toFixed(1)} MB`;

async function cache(): Promise<Cache | undefined> {
  try {
    return await caches.open(FILES);
  } catch {
    return undefined; // a browser that keeps nothing
  }
}

/** How many bytes of these the network still has to bring. */
export async function missing(names: Asset[]): Promise<number> {
  const kept = await cache();
  let bytes = 0;
  for (const name of names) if (!(await kept?.match(ASSETS[name].file))) bytes += ASSETS[name].bytes;
  return bytes;
}

async function compressed(name: Asset, progress: (bytes: number) => void): Promise<Blob> {
  const { file, bytes } = ASSETS[name];
  const kept = await cache();
  const found = await kept?.match(file);
  if (found) return found.blob();
  const response = await fetch(file);
  if (!response.ok || !response.body) throw new Error(`${file}: the server answers ${response.status}`);
  const parts: Uint8Array<ArrayBuffer>[] = [];
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    progress(value.length);
  }
  const blob = new Blob(parts);
  if (blob.size !== bytes) throw new Error(`${file}: ${blob.size} bytes came, expected ${bytes}`);
  await kept?.put(file, new Response(blob)).catch(() => undefined);
  return blob;
}

/** An asset as it was before it was compressed; progress is told of what the network brings. */
export async function load(name: Asset, progress: (bytes: number) => void): Promise<Blob> {
  const stream = (await compressed(name, progress)).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).blob();
}
