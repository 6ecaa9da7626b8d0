/**
 * Whether a picture can be sent as it is, or how it must be made smaller or turned first. Knows nothing of canvases
 * or files.
 */

/** The longest side that is sent: more than twice what the model sees of it. */
export const MAX_SIDE = 2048;

const SENDABLE = ['image/png', 'image/jpeg', 'image/webp', 'image/gif', 'image/avif'];
/** Base64 takes four bytes for three; the conversation has to fit as well. */
const BODY_SHARE = 0.7;

export interface ImageFacts {
  readonly type: string;
  readonly bytes: number;
  /** As the picture is shown, in pixels. */
  readonly width: number;
  readonly height: number;
  /** Whether the file says that it lies on its side: the model would see it as it lies. */
  readonly turned: boolean;
}

/** The server's, as `/health` tells them. */
export interface ImageLimits {
  readonly body_bytes?: number;
  readonly image_bytes?: number;
  readonly image_pixels?: number;
}

export interface ImagePlan {
  /** Undefined where the file is sent as it is. */
  readonly redraw: { readonly width: number; readonly height: number; readonly type: string } | undefined;
  /** What the user is told. */
  readonly note: string | undefined;
}

export function planImage(image: ImageFacts, limits: ImageLimits = {}): ImagePlan {
  const { type, bytes, width, height } = image;
  const most = Math.min(limits.image_bytes ?? Infinity, BODY_SHARE * (limits.body_bytes ?? Infinity));
  const scale = Math.min(1, MAX_SIDE / Math.max(width, height), pixelScale(image, limits.image_pixels));
  const size = {
    width: Math.max(1, Math.floor(width * scale)),
    height: Math.max(1, Math.floor(height * scale)),
  };
  if (scale < 1) {
    const note = `Made smaller for sending: ${size.width} × ${size.height} pixels of ${width} × ${height}.`;
    return { redraw: { ...size, type: 'image/jpeg' }, note };
  }
  if (bytes > most) {
    return {
      redraw: { ...size, type: 'image/jpeg' },
      note: 'Compressed for sending: the file was too large.',
    };
  }
  if (image.turned) return { redraw: { ...size, type: 'image/jpeg' }, note: undefined };
  if (!SENDABLE.includes(type)) return { redraw: { ...size, type: 'image/png' }, note: undefined };
  return { redraw: undefined, note: undefined };
}

function pixelScale({ width, height }: ImageFacts, most = Infinity): number {
  return Math.sqrt(most / (width * height));
}

const ORIENTATION = 0x0112;

/**
 * The EXIF orientation of a JPEG file, 1 to 8; 1 where it says none. Source: Exif 2.32, 4.6.4 and 4.5.4.
 */
export function exifOrientation(bytes: Uint8Array): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let start = 2;
  while (start + 18 < bytes.length && view.getUint16(0) === 0xffd8) {
    const [marker, length] = [view.getUint16(start), view.getUint16(start + 2)];
    if (marker === 0xffe1 && view.getUint32(start + 4) === 0x45786966) {
      return tiffOrientation(
        new DataView(view.buffer, view.byteOffset + start + 10, bytes.length - start - 10),
      );
    }
    if (marker < 0xffc0 || marker === 0xffda) break;
    start += 2 + length;
  }
  return 1;
}

function tiffOrientation(tiff: DataView): number {
  const little = tiff.getUint16(0) === 0x4949;
  const directory = tiff.getUint32(4, little);
  if (directory + 2 > tiff.byteLength) return 1;
  const count = tiff.getUint16(directory, little);
  for (let i = 0; i < count; i++) {
    const entry = directory + 2 + 12 * i;
    if (entry + 12 > tiff.byteLength) return 1;
    if (tiff.getUint16(entry, little) !== ORIENTATION) continue;
    const value = tiff.getUint16(entry + 8, little);
    return value >= 1 && value <= 8 ? value : 1;
  }
  return 1;
}
