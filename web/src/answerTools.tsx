/** What can be done with an answer: copy it, have another, look at how it came about, vote. */
import { useState } from 'preact/hooks';
import type { Exchange, Vote } from './conversation.ts';
import type { ExchangesProps } from './exchanges.tsx';
import { Icon, IconButton } from './icons.tsx';

const VOTES = [
  ['like', 'Good answer'],
  ['dislike', 'Bad answer'],
  ['flag', 'Report the answer'],
] as const satisfies readonly (readonly [Vote, string])[];

export function AnswerTools(props: ExchangesProps & { readonly exchange: Exchange; readonly index: number }) {
  const { exchange, index, chat, votes, looking, canLook, onLook } = props;
  const [failure, setFailure] = useState<string | undefined>();
  const vote = (kind: Vote) => {
    setFailure(undefined);
    chat
      .vote(index, kind)
      .catch((error: unknown) => setFailure(error instanceof Error ? error.message : `${error}`));
  };
  const again = (
    <IconButton icon="again" label="Answer again" onClick={() => chat.ask(exchange.question, index)} />
  );
  if (exchange.answer === '') return <div class="tools">{again}</div>;
  return (
    <div class="tools">
      <Copy text={exchange.answer} />
      {again}
      {votes &&
        VOTES.map(([kind, label]) => (
          <IconButton
            key={kind}
            icon={kind}
            label={label}
            pressed={exchange.vote === kind}
            onClick={() => vote(kind)}
          />
        ))}
      {canLook(exchange) && (
        <LookButton id={exchange.id} pressed={looking === exchange.id} onClick={() => onLook(exchange)} />
      )}
      <span class="failure small" role="status">
        {failure}
      </span>
    </div>
  );
}

function LookButton(props: { readonly id: number; readonly pressed: boolean; readonly onClick: () => void }) {
  return (
    <button
      type="button"
      class="quiet look-button"
      id={`look-${props.id}`}
      aria-pressed={props.pressed}
      onClick={props.onClick}
    >
      <Icon name="eye" /> See how it looked
    </button>
  );
}

/** Milliseconds for which it says that it has copied. */
const COPIED = 1500;

function Copy({ text }: { readonly text: string }) {
  const [copied, setCopied] = useState(false);
  // Browsers have a clipboard on this machine and behind TLS alone.
  if (navigator.clipboard === undefined) return null;
  const copy = async () => {
    await navigator.clipboard.writeText(text);
    setCopied(true);
    setTimeout(() => setCopied(false), COPIED);
  };
  return (
    <IconButton
      icon={copied ? 'check' : 'copy'}
      label={copied ? 'Copied' : 'Copy the answer'}
      onClick={() => void copy()}
    />
  );
}
