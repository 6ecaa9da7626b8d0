/** Reads the answer out to screen readers as it comes, a sentence at a time. Nobody sees it. */
import { useEffect, useRef, useState } from 'preact/hooks';
import type { Exchange } from './conversation.ts';
import { nextSentences } from './sentences.ts';

const ENDINGS: Partial<Record<Exchange['state'], string>> = {
  done: 'The answer is complete.',
  stopped: 'The answer was stopped.',
};

export function Announcer({ exchange }: { readonly exchange: Exchange | undefined }) {
  const said = useRef({ id: 0, length: 0, ended: false });
  const [lines, setLines] = useState<readonly string[]>([]);
  useEffect(() => {
    if (exchange === undefined) return;
    const { id, answer, state } = exchange;
    if (said.current.id !== id) {
      said.current = { id, length: 0, ended: false };
      setLines([]);
    }
    const ended = state !== 'waiting' && state !== 'streaming';
    const more = nextSentences(answer, said.current.length, ended);
    const ending = ended && !said.current.ended ? ENDINGS[state] : undefined;
    said.current = { id, length: said.current.length + more.length, ended };
    const added = [more.trim(), ending ?? ''].filter((line) => line !== '');
    if (added.length > 0) setLines((lines) => [...lines, ...added]);
  }, [exchange]);
  return (
    <div class="hidden-text" aria-live="polite" role="log" aria-label="The answer, read aloud">
      {lines.map((line, i) => (
        <p key={i}>{line}</p>
      ))}
    </div>
  );
}
