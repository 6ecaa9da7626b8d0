/**
 * Runs a script of this folder in a process of its own, with Chromium's software driver for Vulkan where Debian has put
 * it: drivers are found through the environment, and one may take its process down with it.
 */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const CHROMIUM = '/usr/lib/chromium';
const DRIVER = path.join(CHROMIUM, 'vk_swiftshader_icd.json');

/** The environment in which the software driver is found; this process's own where there is none. */
export function driverEnvironment(): NodeJS.ProcessEnv {
  const driver = existsSync(DRIVER) ? { VK_ICD_FILENAMES: DRIVER, LD_LIBRARY_PATH: CHROMIUM } : {};
  return { ...process.env, ...driver };
}

/** What the script prints: one JSON value, which has `reason` where there is no such device. */
export async function runOnWebgpu<T extends object>(
  script: string,
  args: readonly string[] = [],
): Promise<T | { readonly reason: string }> {
  const file = fileURLToPath(new URL(script, import.meta.url));
  const { stdout } = await promisify(execFile)(process.execPath, ['--import', 'tsx', file, ...args], {
    env: driverEnvironment(),
    maxBuffer: 2 ** 26,
  });
  return JSON.parse(stdout) as T | { readonly reason: string };
}
