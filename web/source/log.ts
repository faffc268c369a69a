// The queries that the page has sent, newest last.

import { database } from "./database";
import { highlighted } from "./editor";
import { byId, make, seconds } from "./elements";

let previous: { query: string; times: number; seconds: number; note: HTMLElement } | undefined;

database.addEventListener("sent", (event) => {
  const { query, seconds: taken } = (event as CustomEvent<{ query: string; seconds: number }>).detail;
  if (previous?.query === query) {
    previous.times += 1;
    previous.seconds += taken;
  } else {
    const note = make("span", { class: "time" });
    byId("log").append(make("li", {}, highlighted(query), note));
    previous = { query, times: 1, seconds: taken, note };
  }
  const { times, seconds: sum, note } = previous;
  note.textContent = times > 1 ? `${times} times, ${seconds(sum / times)} each` : sum < 0.05 ? `${Math.max(1, Math.round(1000 * sum))} ms` : seconds(sum);
});
