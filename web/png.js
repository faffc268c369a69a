// The project's pictures as PNGs of half their width and height: a pixel of theirs is two wide in the README.

import { deflateSync, inflateSync } from "node:zlib";

function crc(bytes) {
  let rest = 0xffffffff;
  for (const byte of bytes) {
    rest ^= byte;
    for (let bit = 0; bit < 8; bit++) rest = (rest >>> 1) ^ (rest & 1 ? 0xedb88320 : 0);
  }
  return (rest ^ 0xffffffff) >>> 0;
}

function chunk(kind, content) {
  const body = Buffer.concat([Buffer.from(kind, "latin1"), content]);
  const [length, check] = [Buffer.alloc(4), Buffer.alloc(4)];
  length.writeUInt32BE(content.length);
  check.writeUInt32BE(crc(body));
  return Buffer.concat([length, body, check]);
}

const paeth = (left, above, corner) => {
  const [a, b, c] = [Math.abs(above - corner), Math.abs(left - corner), Math.abs(left + above - 2 * corner)];
  return a <= b && a <= c ? left : b <= c ? above : corner;
};

/** The rows of a picture as they were before they were filtered, each behind its filter's number, in place (PNG, section 9). */
function unfilter(raw, line) {
  for (let at = 0; at < raw.length; at++) {
    const [filter, column] = [raw[at - (at % line)], at % line];
    if (column === 0) continue;
    const left = column > 3 ? raw[at - 3] : 0;
    const above = at > line ? raw[at - line] : 0;
    const corner = column > 3 && at > line ? raw[at - line - 3] : 0;
    raw[at] += [0, left, above, (left + above) >> 1, paeth(left, above, corner)][filter];
  }
}

/** A PNG in red, green and blue, without every second column and row. */
export function halved(png) {
  const chunks = [];
  for (let at = 8; at < png.length; at += 12 + png.readUInt32BE(at)) {
    chunks.push({ kind: png.toString("latin1", at + 4, at + 8), content: png.subarray(at + 8, at + 8 + png.readUInt32BE(at)) });
  }
  const head = Buffer.from(chunks[0].content);
  const [width, height] = [head.readUInt32BE(0), head.readUInt32BE(4)];
  const raw = inflateSync(Buffer.concat(chunks.filter(({ kind }) => kind === "IDAT").map(({ content }) => content)));
  const line = 1 + 3 * width;
  if (head[9] !== 2 || raw.length !== height * line) throw new Error("a picture of another kind than image_png makes");
  unfilter(raw, line);
  const rows = [];
  for (let row = 0; row < height; row += 2) {
    const half = Buffer.alloc(1 + (3 * width) / 2);
    for (let column = 0; column < width; column += 2) raw.copy(half, 1 + (3 * column) / 2, row * line + 1 + 3 * column, row * line + 4 + 3 * column);
    rows.push(half);
  }
  head.writeUInt32BE(width / 2, 0);
  head.writeUInt32BE(height / 2, 4);
  return Buffer.concat([png.subarray(0, 8), chunk("IHDR", head), chunk("IDAT", deflateSync(Buffer.concat(rows), { level: 9 })), chunk("IEND", Buffer.alloc(0))]);
}
