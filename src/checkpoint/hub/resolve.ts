/**
 * A model's name → its folder: a folder as it is, an id's snapshot in the cache, downloaded first where it is not
 * there.
 *
 * Knows nothing of what the folder is for.
 */
import { stat } from 'node:fs/promises';
import { UserError } from '../../common/errors.ts';
import { modelInfo } from './api.ts';
import { type Downloaded, type DownloadOptions, downloadModel, downloadRetries } from './download.ts';
import { type Hub, hubFromEnvironment } from './hub.ts';
import { COMMIT, type HubId, parseHubId, showId } from './ids.ts';
import { completeSnapshot } from './snapshot.ts';

/** Failures in a row when the hub is asked for a model: who has no network learns it soon. */
const MOST_REFUSALS = 3;

/**
 * The folder of `name`: itself where something of that name is there or it cannot be an id; else the snapshot of the
 * id in the cache. What the cache has whole is taken without asking the hub; `pullModel` looks for something newer.
 *
 * @throws UserError where the model is neither here nor to be had.
 */
export async function resolveModel(name: string, options: DownloadOptions = {}, hub?: Hub): Promise<string> {
  const id = parseHubId(name);
  if (id === undefined || (await stat(name).catch(() => undefined)) !== undefined) return name;
  const from = hub ?? (await hubFromEnvironment());
  const cached = await completeSnapshot(from.cache, id);
  if (cached !== undefined) return cached;
  options.onNote?.(`${name}: no such folder; asking ${from.endpoint} for a model of that name`);
  return (await pullModel(id, options, from)).folder;
}

/**
 * Brings the newest commit of the id's revision into the cache; offline, finds what is there.
 *
 * @throws UserError where the model is not to be had, the disk has no room, or what comes is wrong.
 */
export async function pullModel(id: HubId, options: DownloadOptions = {}, hub?: Hub): Promise<Downloaded> {
  const from = hub ?? (await hubFromEnvironment());
  if (from.offline || COMMIT.test(id.revision)) {
    const folder = await completeSnapshot(from.cache, id);
    if (folder !== undefined) return { folder, fetchedBytes: 0 };
  }
  if (from.offline) {
    const got = 'got neither, and HF_HUB_OFFLINE forbids asking the hub';
    throw new UserError(`${showId(id)}: expected a folder, or a model in ${from.cache}, ${got}`);
  }
  const info = await modelInfo(from, id, downloadRetries(id, options, MOST_REFUSALS));
  return downloadModel(from, id, info, options);
}
