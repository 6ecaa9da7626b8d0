/**
 * A model's id on a hub, `owner/name[@revision]`, told from a folder's name.
 *
 * Knows neither the disk nor the network. Source: the rules of huggingface.co for names of repositories, and git's
 * for names of branches.
 */

/** A model on a hub at a branch, a tag or a commit. */
export type HubId = {
  readonly owner: string;
  readonly name: string;
  /** `main` unless given. */
  readonly revision: string;
};

/** A full commit hash, as folders of snapshots are named. */
export const COMMIT = /^[0-9a-f]{40}$/;

const MAIN = 'main';
const MAX_NAME = 96;

/**
 * `text` as an id, or undefined for what can only be a folder: more or fewer than one slash before `@`, an absolute
 * or `./` path, characters that no id has.
 */
export function parseHubId(text: string): HubId | undefined {
  const at = text.indexOf('@');
  const model = at === -1 ? text : text.slice(0, at);
  const revision = at === -1 ? MAIN : text.slice(at + 1);
  const [owner = '', name = '', ...more] = model.split('/');
  if (more.length > 0 || !isName(owner) || !isName(name) || !isRevision(revision)) return undefined;
  return { owner, name, revision };
}

/** `owner/name`. */
export function repositoryOf({ owner, name }: HubId): string {
  return `${owner}/${name}`;
}

/** As a person writes it: `owner/name`, with `@revision` unless that is `main`. */
export function showId(id: HubId): string {
  return id.revision === MAIN ? repositoryOf(id) : `${repositoryOf(id)}@${id.revision}`;
}

function isName(part: string): boolean {
  return part.length <= MAX_NAME && /^\w([\w.-]*\w)?$/.test(part) && !/\.\.|--|\.git$/.test(part);
}

/** It becomes a file below `refs`, so it must not lead out of there. */
function isRevision(text: string): boolean {
  return (
    /^[\w.+-]+(\/[\w.+-]+)*$/.test(text) && !text.split('/').some((part) => /^\.|\.\.|\.lock$/.test(part))
  );
}
