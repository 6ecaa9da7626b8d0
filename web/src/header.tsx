/** The page's head: the model, whether the server is ready, and what concerns the whole page. */
import { Icon, IconButton } from './icons.tsx';
import type { Server } from './useServer.ts';
import { useTheme } from './useTheme.ts';

export function Header(props: {
  readonly server: Server;
  readonly onNew: () => void;
  readonly onSettings: () => void;
}) {
  const { theme, toggle } = useTheme();
  return (
    <header class="head">
      <h1 class="brand">
        <Mark /> FUSION
      </h1>
      <ModelChoice server={props.server} />
      <div class="head-tools">
        <button type="button" class="quiet new" onClick={props.onNew}>
          <Icon name="plus" /> <span class="new-text">New conversation</span>
        </button>
        <IconButton icon="sliders" label="Settings" onClick={props.onSettings} />
        <IconButton
          icon={theme === 'dark' ? 'sun' : 'moon'}
          label={theme === 'dark' ? 'Use light colours' : 'Use dark colours'}
          onClick={toggle}
        />
      </div>
    </header>
  );
}

/** Two rings that share a part: the two feature spaces. */
function Mark() {
  return (
    <svg class="mark" viewBox="0 0 28 20" aria-hidden="true">
      <circle cx="10" cy="10" r="7.5" />
      <circle cx="18" cy="10" r="7.5" />
    </svg>
  );
}

function ModelChoice({ server: { models, model, chooseModel, status, ready } }: { readonly server: Server }) {
  return (
    <div class="model">
      <span class="dot" data-ready={ready} aria-hidden="true" />
      {models.length > 1 ? (
        <select
          aria-label="Model"
          value={model?.id}
          onChange={(event) => chooseModel(event.currentTarget.value)}
        >
          {models.map(({ id }) => (
            <option key={id} value={id}>
              {id}
            </option>
          ))}
        </select>
      ) : (
        <span class="model-name" title={model?.fusion.variant}>
          {model?.id}
        </span>
      )}
      <span class="model-status" role="status" data-ready={ready}>
        {status}
      </span>
    </div>
  );
}
