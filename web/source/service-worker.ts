// Keeps the page, so that it opens without a network. What is large is kept by the page, once it is wanted.

import { FILES } from "./assets";

const scope = self as unknown as ServiceWorkerGlobalScope;

scope.addEventListener("install", (event) => {
  event.waitUntil(
    (async () => {
      const cache = await caches.open(CACHE);
      await cache.addAll(SHELL.map((file) => new Request(file, { cache: "no-cache" })));
      await scope.skipWaiting();
    })(),
  );
});

scope.addEventListener("activate", (event) => {
  event.waitUntil(
    (async () => {
      for (const name of await caches.keys()) {
        if (name.startsWith("sql_diffusion ") && name !== CACHE && name !== FILES) await caches.delete(name);
      }
      const files = await caches.open(FILES);
      for (const request of await files.keys()) {
        if (!KEPT.some((file) => request.url.endsWith(`/${file}`))) await files.delete(request);
      }
      await scope.clients.claim();
    })(),
  );
});

scope.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  if (event.request.method !== "GET" || url.origin !== location.origin) return;
  event.respondWith(
    (async () => {
      if (event.request.mode === "navigate") {
        // the newest page, and the one that is kept where there is no network
        try {
          return await fetch(event.request);
        } catch {
          return (await caches.match("./")) ?? Response.error();
        }
      }
      return (await caches.match(event.request)) ?? fetch(event.request);
    })(),
  );
});
