// Where the database is kept between visits: one file in IndexedDB, which is replaced whole, so two windows or an end at any moment
// leave one that is sound.

const NAME = "sql_diffusion";

function open(): Promise<IDBDatabase> {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => request.result.createObjectStore("files");
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

async function within<T>(mode: IDBTransactionMode, act: (files: IDBObjectStore) => IDBRequest<T>): Promise<T> {
  const database = await open();
  try {
    return await new Promise((resolve, reject) => {
      const transaction = database.transaction("files", mode);
      const request = act(transaction.objectStore("files"));
      transaction.oncomplete = () => resolve(request.result);
      transaction.onabort = () => reject(transaction.error);
    });
  } finally {
    database.close();
  }
}

// A database of another version of PostgreSQL or of the extension is none of ours.
interface Kept {
  made: string;
  file: Blob;
}

const made = () => ASSETS["database.tar"].file;

export async function kept(): Promise<Blob | undefined> {
  const found = await within<Kept | undefined>("readonly", (files) => files.get("database"));
  return found?.made === made() ? found.file : undefined;
}

export async function keep(file: Blob): Promise<void> {
  await within("readwrite", (files) => files.put({ made: made(), file } satisfies Kept, "database"));
}

export async function forget(): Promise<void> {
  await within("readwrite", (files) => files.delete("database"));
}
