/** How answers are sampled, and the server's key. Knows nothing of where settings are kept. */
import { useEffect, useRef } from 'preact/hooks';
import { IconButton } from './icons.tsx';
import { DEFAULTS, LIMITS, type Settings, validSettings } from './settings.ts';
import type { Server } from './useServer.ts';

export interface SettingsDialogProps {
  readonly open: boolean;
  readonly settings: Settings;
  readonly onChange: (settings: Settings) => void;
  readonly server: Server;
  readonly onClose: () => void;
}

const FIELDS = [
  ['temperature', 'Temperature', 0.05, '0 always takes the likeliest token; more is freer'],
  ['topP', 'Top p', 0.05, 'Only the likeliest tokens, up to this share of the probability'],
  ['maxTokens', 'Most tokens of an answer', 1, ''],
  ['seed', 'Seed', 1, 'Empty: another one for each answer'],
] as const satisfies readonly (readonly [keyof Settings, string, number, string])[];

export function SettingsDialog({ open, settings, onChange, server, onClose }: SettingsDialogProps) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    if (open) dialog.current?.showModal();
    else dialog.current?.close();
  }, [open]);
  return (
    <dialog class="settings" ref={dialog} aria-labelledby="settings-title" onClose={onClose}>
      <form method="dialog">
        <div class="dialog-head">
          <h2 id="settings-title">Settings</h2>
          <IconButton icon="close" label="Close the settings" onClick={onClose} />
        </div>
        {FIELDS.map(([name, label, step, hint]) => (
          <NumberField
            key={name}
            {...{ name, label, step, hint }}
            value={settings[name]}
            onChange={(value) => onChange(validSettings({ ...settings, [name]: value }))}
          />
        ))}
        {server.health?.needs_api_key && <KeyField server={server} />}
        <div class="dialog-end">
          <button type="button" class="quiet" onClick={() => onChange(DEFAULTS)}>
            Back to the defaults
          </button>
          <button type="submit" class="filled">
            Done
          </button>
        </div>
      </form>
    </dialog>
  );
}

function NumberField(props: {
  readonly name: keyof Settings;
  readonly label: string;
  readonly step: number;
  readonly hint: string;
  readonly value: number | undefined;
  readonly onChange: (value: number | undefined) => void;
}) {
  const { name, label, step, hint, value, onChange } = props;
  const [min, max] = LIMITS[name];
  return (
    <div class="field">
      <label for={`set-${name}`}>{label}</label>
      <input
        id={`set-${name}`}
        type="number"
        inputMode="decimal"
        {...{ min, max }}
        step={step}
        value={value ?? ''}
        aria-describedby={hint === '' ? undefined : `hint-${name}`}
        onChange={({ currentTarget: { value } }) => onChange(value === '' ? undefined : Number(value))}
      />
      {hint !== '' && (
        <p class="faint small" id={`hint-${name}`}>
          {hint}
        </p>
      )}
    </div>
  );
}

function KeyField({ server: { key, setKey } }: { readonly server: Server }) {
  return (
    <div class="field">
      <label for="set-key">API key</label>
      <input
        id="set-key"
        type="password"
        autocomplete="off"
        value={key}
        aria-describedby="hint-key"
        onChange={(event) => setKey(event.currentTarget.value.trim())}
      />
      <p class="faint small" id="hint-key">
        Kept until this tab is closed
      </p>
    </div>
  );
}
