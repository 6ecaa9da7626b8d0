/** Scenes to pixels, with sharp (libvips and librsvg). Knows nothing of what they mean. */
import sharp, { type Sharp } from 'sharp';
import type { RgbImage } from '../image.ts';
import type { Scene } from './scene.ts';
import { sceneSvg } from './svg.ts';

/** The side of a picture, in pixels, where none is given. */
export const DEFAULT_SIZE = 192;

function draw(scene: Scene, size: number): Sharp {
  return sharp(Buffer.from(sceneSvg(scene, size))).removeAlpha();
}

/** The scene as `size` × `size` pixels; anti-aliased, the same for the same scene. */
export async function renderScene(scene: Scene, size = DEFAULT_SIZE): Promise<RgbImage> {
  const { data, info } = await draw(scene, size).raw().toBuffer({ resolveWithObject: true });
  return {
    width: info.width,
    height: info.height,
    data: new Uint8Array(data.buffer, data.byteOffset, data.length),
  };
}

/** The scene as a PNG file of `size` × `size` pixels, packed for speed rather than for space. */
export function renderPng(scene: Scene, size = DEFAULT_SIZE): Promise<Uint8Array> {
  return draw(scene, size).png({ compressionLevel: 1 }).toBuffer();
}
