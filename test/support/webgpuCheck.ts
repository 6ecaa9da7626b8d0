/**
 * Checks the checkpoint folder given as argument on WebGPU and prints one JSON line: `{reason}` where there is no
 * such device, else the report. A process of its own, because drivers are found through the environment.
 */
import { describeDevices, openDevice } from '../../src/runtime/device.ts';
import { checkCheckpoint } from '../../src/verify/check.ts';

const [dir = '', tolerance = '1'] = process.argv.slice(2);
const found = (await describeDevices()).find(({ name }) => name === 'webgpu');
if (!found?.available) {
  console.log(JSON.stringify({ reason: found?.reason ?? 'unknown to this package' }));
} else {
  const device = await openDevice('webgpu', { threads: 1 });
  console.log(JSON.stringify(await checkCheckpoint(device, dir, { tolerance: Number(tolerance) })));
  await device.close();
}
