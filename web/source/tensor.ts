// PostgreSQL's text of an array of numbers, and what pictures are made of it.

import type { Tensor } from "./messages";

export function parseTensor(text: string): Tensor {
  const body = text.replace(/^\[[^=]*=/, "");
  if (body === "{}") return { shape: [], values: new Float32Array() };
  const values = Float32Array.from(body.replace(/[{}]/g, "").split(","), (word) => (word === "NULL" ? NaN : Number(word)));
  // How many arrays end with at least so many braces: all, those of the next level, and so on to one.
  const ends = (body.match(/}+/g) ?? []).map((run) => run.length);
  const deepest = Math.max(...ends);
  const counts = Array.from({ length: deepest }, (_, level) => ends.filter((run) => run > level).length);
  return { shape: [values.length, ...counts].slice(0, deepest).map((count, level) => count / counts[level]!).reverse(), values };
}

export function tensorText({ shape, values }: Tensor): string {
  let at = 0;
  const write = (level: number): string =>
    `{${Array.from({ length: shape[level]! }, () => (level + 1 === shape.length ? String(values[at++]) : write(level + 1))).join(",")}}`;
  return shape.length ? write(0) : "{}";
}

/** A tensor (channels, height, width) as a picture, values from low to high. */
export function picture({ shape, values }: Tensor, low: number, high: number): ImageData {
  const [channels, height, width] = shape as [number, number, number];
  const image = new ImageData(width, height);
  const plane = height * width;
  for (let pixel = 0; pixel < plane; pixel++) {
    for (let channel = 0; channel < 3; channel++) {
      const value = values[(channels === 3 ? channel : 0) * plane + pixel]!;
      image.data[4 * pixel + channel] = Math.round(255 * Math.min(1, Math.max(0, (value - low) / (high - low))));
    }
    image.data[4 * pixel + 3] = 255;
  }
  return image;
}

export interface Statistics {
  least: number;
  greatest: number;
  mean: number;
  deviation: number;
}

export function statistics(values: Float32Array): Statistics {
  let least = Infinity;
  let greatest = -Infinity;
  let sum = 0;
  for (const value of values) {
    if (value < least) least = value;
    if (value > greatest) greatest = value;
    sum += value;
  }
  const mean = sum / values.length;
  let squares = 0;
  for (const value of values) squares += (value - mean) ** 2;
  return { least, greatest, mean, deviation: Math.sqrt(squares / values.length) };
}

// From dark violet through red and orange to pale yellow, of even steps in lightness.
const COLOURS = [
  [13, 8, 40], [52, 14, 92], [98, 21, 110], [145, 38, 104], [188, 55, 84], [223, 82, 58], [245, 122, 28], [251, 171, 40], [248, 218, 104], [252, 253, 191],
] as const;

/** One plane of numbers in colours, from its least to its greatest. */
export function heat(values: Float32Array, height: number, width: number): ImageData {
  const { least, greatest } = statistics(values);
  const image = new ImageData(width, height);
  values.forEach((value, pixel) => {
    const place = greatest > least ? ((value - least) / (greatest - least)) * (COLOURS.length - 1) : 0;
    const below = Math.min(COLOURS.length - 2, Math.floor(place)) || 0;
    for (let channel = 0; channel < 3; channel++) {
      const from = COLOURS[below]![channel]!;
      image.data[4 * pixel + channel] = from + (COLOURS[below + 1]![channel]! - from) * (place - below);
    }
    image.data[4 * pixel + 3] = 255;
  });
  return image;
}
