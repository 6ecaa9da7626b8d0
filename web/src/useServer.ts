/** What is known of the server: whether it is ready, its models, the key it wants. Knows nothing of conversations. */
import { useEffect, useState } from 'preact/hooks';
import { getHealth, getModels, type Health, progressText, type ServedModel } from './api.ts';

export interface Server {
  readonly health: Health | undefined;
  readonly ready: boolean;
  /** In words for people. */
  readonly status: string;
  readonly models: readonly ServedModel[];
  readonly model: ServedModel | undefined;
  readonly chooseModel: (name: string) => void;
  readonly key: string;
  readonly setKey: (key: string) => void;
}

/** Milliseconds between two looks at a server that is loading, gone, or ready. */
const POLL = { loading: 700, gone: 3000, ready: 15_000 } as const;
const KEY = 'fusion.key';

export function useServer(): Server {
  const [health, setHealth] = useState<Health | undefined>();
  const [reached, setReached] = useState(true);
  const [models, setModels] = useState<readonly ServedModel[]>([]);
  const [name, chooseModel] = useState<string | undefined>();
  const [key, setKey] = useState(() => sessionStorage.getItem(KEY) ?? '');
  useEffect(() => watchHealth(setHealth, setReached), []);
  const known = health !== undefined;
  useEffect(() => {
    sessionStorage.setItem(KEY, key);
    if (known) getModels(key).then(setModels, () => setModels([]));
  }, [known, key]);
  const model = models.find(({ id }) => id === name) ?? models[0];
  const ready = reached && health?.status === 'ok';
  return { health, ready, status: statusText(health, reached), models, model, chooseModel, key, setKey };
}

/** Looks at `/health` again and again; gives what ends that. */
function watchHealth(onHealth: (health: Health) => void, onReached: (reached: boolean) => void): () => void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  let over = false;
  const look = async () => {
    let pause: number = POLL.gone;
    try {
      const health = await getHealth();
      pause = health.status === 'ok' ? POLL.ready : POLL.loading;
      onHealth(health);
      onReached(true);
    } catch {
      onReached(false);
    }
    if (!over) timer = setTimeout(look, pause);
  };
  void look();
  return () => {
    over = true;
    clearTimeout(timer);
  };
}

function statusText(health: Health | undefined, reached: boolean): string {
  if (!reached) return 'The server cannot be reached';
  if (health === undefined) return 'Connecting';
  if (health.status === 'ok') return 'Ready';
  if (health.status === 'stopping') return 'The server is stopping';
  const loading = health.models.find(({ state }) => state === 'loading');
  return progressText(loading?.progress ?? {}) ?? 'Loading the model';
}
