/** Which answer's attention is shown, and whether it has come. Knows nothing of how it is shown. */
import { useRef, useState } from 'preact/hooks';
import type { Explanation } from './explanation.ts';

export interface Look {
  /** The exchange's. */
  readonly id: number;
  readonly explanation?: Explanation;
  readonly error?: string;
}

export interface LookControl {
  readonly state: Look | undefined;
  readonly open: (id: number, load: (signal: AbortSignal) => Promise<Explanation>) => void;
  readonly close: () => void;
}

export function useLook(): LookControl {
  const [state, setState] = useState<Look | undefined>();
  const loading = useRef<AbortController | undefined>(undefined);
  const close = () => {
    loading.current?.abort();
    setState(undefined);
  };
  const open: LookControl['open'] = (id, load) => {
    loading.current?.abort();
    const controller = new AbortController();
    loading.current = controller;
    setState({ id });
    load(controller.signal).then(
      (explanation) => {
        if (!controller.signal.aborted) setState({ id, explanation });
      },
      (error: unknown) => {
        const text = error instanceof Error ? error.message : String(error);
        if (!controller.signal.aborted) setState({ id, error: text });
      },
    );
  };
  return { state, open, close };
}
