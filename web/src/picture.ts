/** A file of the user's → a picture to show and to send. Knows nothing of conversations. */
import { exifOrientation, type ImageLimits, planImage } from './imagePlan.ts';

export interface Picture {
  readonly name: string;
  /** What is sent and shown: `data:` and Base64. */
  readonly dataUri: string;
  readonly width: number;
  readonly height: number;
  readonly note: string | undefined;
}

const QUALITY = 0.92;

/** @throws Error in words for people where the file is no picture that the browser can read. */
export async function openPicture(file: Blob, name: string, limits: ImageLimits): Promise<Picture> {
  const bitmap = await createImageBitmap(file).catch(() => {
    throw new Error(`${name} is no picture that this browser can read. Use PNG, JPEG, WebP, GIF or AVIF.`);
  });
  try {
    const { width, height } = bitmap;
    const turned = file.type === 'image/jpeg' && exifOrientation(await bytesOf(file)) > 1;
    const facts = { type: file.type, bytes: file.size, width, height, turned };
    const { redraw, note } = planImage(facts, limits);
    const blob = redraw === undefined ? file : await redrawn(bitmap, redraw);
    const size = redraw ?? { width, height };
    return { name, note, width: size.width, height: size.height, dataUri: await dataUriOf(blob) };
  } finally {
    bitmap.close();
  }
}

const bytesOf = async (file: Blob) => new Uint8Array(await file.arrayBuffer());

interface Redraw {
  readonly width: number;
  readonly height: number;
  readonly type: string;
}

async function redrawn(bitmap: ImageBitmap, { width, height, type }: Redraw): Promise<Blob> {
  const canvas = document.createElement('canvas');
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext('2d');
  if (context === null) throw new Error('This browser cannot draw pictures.');
  context.imageSmoothingQuality = 'high';
  // JPEG has no transparency; what is transparent would turn black.
  context.fillStyle = '#ffffff';
  if (type === 'image/jpeg') context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0, width, height);
  const blob = await new Promise<Blob | null>((resolve) => canvas.toBlob(resolve, type, QUALITY));
  if (blob === null) throw new Error('This picture is too large for this browser.');
  return blob;
}

function dataUriOf(blob: Blob): Promise<string> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result));
    reader.onerror = () => reject(new Error('The file could not be read.'));
    reader.readAsDataURL(blob);
  });
}

/** The first picture of what was dropped or pasted. */
export function pictureFile(data: DataTransfer | null): File | undefined {
  return [...(data?.files ?? [])].find(({ type }) => type.startsWith('image/') || type === '');
}
