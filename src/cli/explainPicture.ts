/**
 * Maps over a picture, drawn: each as a heat map upon the picture in grey, with its label and its range. Knows nothing
 * of what the maps mean.
 */
import sharp from 'sharp';
import { heatColour, percent, rangeOf } from '../common/heat.ts';
import type { RgbImage } from '../data/image.ts';
import type { Maps } from '../generate/attentionMaps.ts';
import type { Panel, PanelGroup } from './explainPanels.ts';

/** How much of the colour covers the picture. */
const COVER = 0.7;

const [PANEL, GAP, MARGIN, COLUMNS] = [224, 16, 28, 6] as const;
const [LABEL_HEIGHT, TITLE_HEIGHT, HEAD_HEIGHT] = [44, 40, 64] as const;
const WIDTH = 2 * MARGIN + COLUMNS * PANEL + (COLUMNS - 1) * GAP;
/** Panels of very long pictures are squeezed to this. */
const HEIGHTS = { least: 64, most: 448 } as const;

/** The map over a picture: its least value in the first colour, its largest in the last. */
export function heatMap({ width, height, data }: RgbImage, { shape, data: values }: Maps): RgbImage {
  const [rows = 1, columns = 1] = shape;
  const { least, largest } = rangeOf(values);
  const spread = largest - least || 1;
  const colours = Array.from(values, (value) => heatColour((value - least) / spread));
  const drawn = new Uint8Array(width * height * 3);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const cell = Math.floor((y * rows) / height) * columns + Math.floor((x * columns) / width);
      const at = (y * width + x) * 3;
      const grey = luminance(data, at);
      for (let i = 0; i < 3; i++) {
        drawn[at + i] = Math.round(COVER * (colours[cell]?.[i] ?? 0) + (1 - COVER) * grey);
      }
    }
  }
  return { width, height, data: drawn };
}

/** ITU-R BT.601. */
const luminance = (rgb: Uint8Array | Uint8ClampedArray, at: number): number =>
  0.299 * (rgb[at] ?? 0) + 0.587 * (rgb[at + 1] ?? 0) + 0.114 * (rgb[at + 2] ?? 0);

/** Something that stands somewhere on the sheet. */
interface Placed {
  readonly image: RgbImage;
  readonly left: number;
  readonly top: number;
}

interface Sheet {
  readonly height: number;
  readonly images: readonly Placed[];
  /** SVG elements. */
  readonly texts: readonly string[];
}

/** A PNG file: the groups with their panels, the picture itself before the first. Labels take a font of the machine. */
export async function drawExplanation(
  picture: RgbImage,
  question: string,
  answer: string,
  groups: readonly PanelGroup[],
): Promise<Uint8Array> {
  const base = await resized(picture);
  const { height, images, texts } = layOut(base, question, answer, groups);
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height}" font-family="sans-serif">${texts.join('')}</svg>`;
  const placed = images.map(({ image, left, top }) => ({
    input: Buffer.from(image.data),
    raw: { width: image.width, height: image.height, channels: 3 as const },
    left,
    top,
  }));
  const background = { width: WIDTH, height, channels: 3 as const, background: '#ffffff' };
  return sharp({ create: background })
    .composite([...placed, { input: Buffer.from(svg), left: 0, top: 0 }])
    .removeAlpha()
    .png()
    .toBuffer();
}

async function resized({ width, height, data }: RgbImage): Promise<RgbImage> {
  const natural = Math.round((PANEL * height) / width);
  const panelHeight = Math.min(Math.max(natural, HEIGHTS.least), HEIGHTS.most);
  const pixels = await sharp(data, { raw: { width, height, channels: 3 } })
    .resize(PANEL, panelHeight, { fit: 'fill' })
    .raw()
    .toBuffer();
  return { width: PANEL, height: panelHeight, data: new Uint8Array(pixels) };
}

function layOut(base: RgbImage, question: string, answer: string, groups: readonly PanelGroup[]): Sheet {
  const images: Placed[] = [];
  const texts = [text(MARGIN, MARGIN + 18, 18, question), text(MARGIN, MARGIN + 44, 18, answer, '#555555')];
  let top = MARGIN + HEAD_HEIGHT;
  for (const [g, { title, panels }] of groups.entries()) {
    texts.push(text(MARGIN, top + 24, 15, title));
    top += TITLE_HEIGHT;
    const shown: readonly (Panel | undefined)[] = g === 0 ? [undefined, ...panels] : panels;
    for (const [i, panel] of shown.entries()) {
      const left = MARGIN + (i % COLUMNS) * (PANEL + GAP);
      const at = top + Math.floor(i / COLUMNS) * (base.height + LABEL_HEIGHT);
      images.push({ image: panel === undefined ? base : heatMap(base, panel.map), left, top: at });
      texts.push(...labels(panel, left, at + base.height));
    }
    top += Math.ceil(shown.length / COLUMNS) * (base.height + LABEL_HEIGHT);
  }
  return { height: top + MARGIN, images, texts };
}

/** What stands under a panel, or under the picture itself. */
function labels(panel: Panel | undefined, left: number, top: number): readonly string[] {
  if (panel === undefined) return [text(left, top + 17, 13, 'the picture')];
  return [
    text(left, top + 17, 13, panel.label, '#111111', PANEL),
    text(left, top + 33, 11, rangeText(panel.map), '#555555'),
  ];
}

/** `0.31 % to 2.4 % of attention`. */
function rangeText({ data }: Maps): string {
  const { least, largest } = rangeOf(data);
  return `${percent(least)} to ${percent(largest)} of attention`;
}

/** A line of SVG text; what does not fit `width` pixels is cut, by the width of an average letter. */
function text(x: number, y: number, size: number, words: string, fill = '#111111', width = WIDTH): string {
  const most = Math.floor(width / (0.56 * size));
  const line = words.replace(/\s+/g, ' ').trim();
  const cut = line.length > most ? `${line.slice(0, most - 1)}…` : line;
  return `<text x="${x}" y="${y}" font-size="${size}" fill="${fill}">${escaped(cut)}</text>`;
}

/** Safe in XML: markup as entities, characters that it does not allow as U+FFFD. */
function escaped(words: string): string {
  const allowed = words.replace(/[^\t\n\r\u{20}-\u{D7FF}\u{E000}-\u{FFFD}\u{10000}-\u{10FFFF}]/gu, '\uFFFD');
  return allowed.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
}
