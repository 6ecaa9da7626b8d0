/**
 * What a hub's refusal means, in one line that says what to do: a token, another name, another revision.
 *
 * Source: the answers of huggingface.co; to those without a token it does not tell a missing model from a private
 * one (401 for both).
 */
import { UserError } from '../../common/errors.ts';
import { nearestName } from '../../common/nearest.ts';
import { isRecord } from '../jsonText.ts';
import { type RefusedError, request } from './http.ts';
import type { Hub } from './hub.ts';
import { type HubId, repositoryOf, showId } from './ids.ts';

/** The released models, to recognise a mistyped one where the hub does not help. */
const RELEASED: readonly string[] = ['FUSION', 'FUSION-X'].flatMap((family) =>
  ['LLaMA3.1-8B', 'Phi3.5-3B'].flatMap((decoder) =>
    ['', '-Stage1', '-Stage1.5'].map((stage) => `starriver030515/${family}-${decoder}${stage}`),
  ),
);
const TOKEN = 'a token from https://huggingface.co/settings/tokens in HF_TOKEN (or saved by "hf auth login")';

/** The error to show for `error`, which was the answer for a model, or for its file `file`. */
export async function refusal(
  hub: Hub,
  id: HubId,
  error: RefusedError,
  signal?: AbortSignal,
  file?: string,
): Promise<UserError> {
  const where = file !== undefined && error.code === 'EntryNotFound' ? `${showId(id)}: ${file}` : showId(id);
  return new UserError(`${where}: ${await meaning(hub, id, error, signal)}`);
}

async function meaning(hub: Hub, id: HubId, error: RefusedError, signal?: AbortSignal): Promise<string> {
  const { status, code, message } = error;
  const got = `got HTTP ${status}`;
  const page = `${hub.endpoint}/${repositoryOf(id)}`;
  if (code === 'GatedRepo' || (status === 403 && code === '')) {
    const terms = `a gated or private model: ask for access at ${page}`;
    if (hub.token === undefined) return `${terms}, then put ${TOKEN}, ${got}`;
    return `${terms}; the token has none yet (a fine-grained one also needs the right to read gated models), ${got}`;
  }
  if (code === 'RevisionNotFound')
    return `expected a branch, tag or commit, ${got}; ${await revisions(hub, id, signal)}`;
  if (code === 'EntryNotFound') return `expected a file of the model, ${got}`;
  if (status === 401 && hub.token !== undefined) return `the token was refused (${message}); put ${TOKEN}`;
  if (status === 401 || status === 404) {
    const near = await nearestModel(hub, id, signal);
    const help = near === undefined ? `a private model needs ${TOKEN}` : `did you mean ${near}?`;
    return `expected a model on ${hub.endpoint}, got none of that name (HTTP ${status}); ${help}`;
  }
  return `expected an answer of ${hub.endpoint}, ${got}: ${message}`;
}

async function revisions(hub: Hub, id: HubId, signal?: AbortSignal): Promise<string> {
  const json = await ask(hub, `/api/models/${repositoryOf(id)}/refs`, signal);
  const lists = isRecord(json) ? [json.branches, json.tags] : [];
  const names = lists.flatMap((list) => namesIn(list, 'name'));
  const near = nearestName(id.revision, names);
  if (near !== undefined) return `did you mean ${near}?`;
  return names.length === 0 ? 'leave out @ for main' : `there are ${names.slice(0, 8).join(', ')}`;
}

async function nearestModel(hub: Hub, id: HubId, signal?: AbortSignal): Promise<string | undefined> {
  const others = namesIn(await ask(hub, `/api/models?author=${id.owner}&limit=100`, signal), 'id');
  return nearestName(repositoryOf(id), [...RELEASED, ...others]);
}

/** The strings under `key` in a list of objects. */
function namesIn(list: unknown, key: string): readonly string[] {
  if (!Array.isArray(list)) return [];
  return list.flatMap((entry) => (isRecord(entry) && typeof entry[key] === 'string' ? [entry[key]] : []));
}

/** Help is given where it can be had: no answer is no error. */
async function ask(hub: Hub, pathname: string, signal?: AbortSignal): Promise<unknown> {
  const url = `${hub.endpoint}${pathname}`;
  return request(hub, { url, signal }, (response) => response.json()).catch(() => undefined);
}
