// What build.js puts in.
declare const ASSETS: Record<"postgres.wasm" | "share.data" | "database.tar", { file: string; bytes: number }>;
declare const WORKER: string;
declare const EXAMPLES: { title: string; query: string }[];
declare const PGLITE_VERSION: string;
declare const SHELL: string[];
declare const KEPT: string[];
declare const CACHE: string;
