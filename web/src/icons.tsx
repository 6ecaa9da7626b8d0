/** The page's icons: lines on a 24 × 24 field, in the colour of the text. Names are said elsewhere. */

const PATHS = {
  plus: 'M12 5v14M5 12h14',
  sliders: 'M4 7h9M19 7h1M4 17h1M11 17h9M16 4.5v5M8 14.5v5',
  sun: 'M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8M12 2.5v2M12 19.5v2M2.5 12h2M19.5 12h2M5.3 5.3l1.4 1.4M17.3 17.3l1.4 1.4M5.3 18.7l1.4-1.4M17.3 6.7l1.4-1.4',
  moon: 'M20 14.5A8.5 8.5 0 0 1 9.5 4 8.5 8.5 0 1 0 20 14.5',
  send: 'M12 19V5M6 11l6-6 6 6',
  stop: 'M7 7h10v10H7z',
  copy: 'M9 9h11v11H9zM15 9V4H4v11h5',
  again: 'M20 11a8 8 0 1 0-2.3 6.3M20 4.5V11h-6.5',
  edit: 'M4 20l1-4L16.5 4.5l3 3L8 19zM14 7l3 3',
  like: 'M7 11v9H4v-9zM7 11l4-7.5c1.6 0 2.6 1.2 2.2 2.8L12.5 9.500H19a1.6 1.6 0 0 1 1.6 2l-1.7 7A2 2 0 0 1 17 20H7',
  dislike:
    'M7 13V4H4v9zM7 13l4 7.500c1.6 0 2.6-1.2 2.2-2.800l-.7-3.200H19a1.6 1.6 0 0 0 1.6-2l-1.7-7A2 2 0 0 0 17 4H7',
  flag: 'M6 21V4M6 4.500h12l-2.5 4 2.5 4H6',
  eye: 'M2.5 12S6 5.5 12 5.5 21.5 12 21.5 12 18 18.5 12 18.5 2.5 12 2.5 12M12 9a3 3 0 1 0 0 6 3 3 0 0 0 0-6',
  close: 'M6 6l12 12M18 6L6 18',
  picture: 'M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M15.5 9h.01',
  check: 'M5 12.500l4.5 4.500L19 7.5',
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name }: { readonly name: IconName }) {
  return (
    <svg class="icon" viewBox="0 0 24 24" aria-hidden="true">
      <path d={PATHS[name]} />
    </svg>
  );
}

/** A button that is an icon; `label` is its name for screen readers and when the pointer rests on it. */
export function IconButton(props: {
  readonly icon: IconName;
  readonly label: string;
  readonly onClick: () => void;
  readonly pressed?: boolean;
  readonly disabled?: boolean;
  readonly id?: string;
}) {
  const { icon, label, onClick, pressed, disabled, id } = props;
  return (
    <button
      type="button"
      class="icon-button"
      id={id}
      aria-label={label}
      title={label}
      aria-pressed={pressed}
      disabled={disabled}
      onClick={onClick}
    >
      <Icon name={icon} />
    </button>
  );
}
