/**
 * "See how it looked": heat maps of the model's own attention over the picture, with what can be chosen in them.
 * Knows nothing of how an explanation is asked for.
 */
import { useEffect, useMemo, useRef, useState } from 'preact/hooks';
import {
  type Choice,
  type Explanation,
  itemNames,
  layerNames,
  mapOf,
  type View,
  viewsOf,
} from './explanation.ts';
import { describePeak } from './heat.ts';
import { HeatPicture } from './heatPicture.tsx';
import { IconButton } from './icons.tsx';
import type { Picture } from './picture.ts';
import type { Look } from './useLook.ts';

const VIEWS: Readonly<Record<View, { readonly name: string; readonly about: string; readonly all: string }>> =
  {
    patches: {
      name: 'Patches',
      about: 'Inside the vision encoder: how strongly each part of the picture attends to the question.',
      all: 'Whole question',
    },
    question: {
      name: 'Question',
      about: 'Inside the vision encoder: what the question’s tokens attend to in the picture.',
      all: 'Whole question',
    },
    latents: {
      name: 'Latents',
      about: 'Between the decoder’s layers: latents look at the picture again, each at a window of its own.',
      all: 'All latents',
    },
    answer: {
      name: 'Answer',
      about: 'Inside the decoder: what it attended to in the picture when it chose each token of its answer.',
      all: 'Whole answer',
    },
  };

export function LookPanel(props: {
  readonly look: Look;
  readonly picture: Picture;
  readonly onClose: () => void;
}) {
  const { look, picture } = props;
  const heading = useRef<HTMLHeadingElement>(null);
  useEffect(() => heading.current?.focus(), [look.id]);
  const onClose = () => {
    props.onClose();
    document.querySelector<HTMLElement>(`#look-${look.id}`)?.focus();
  };
  return (
    // biome-ignore lint/a11y/noStaticElementInteractions: Escape is a shortcut; the button beside does the same.
    <div class="look" onKeyDown={(event) => event.key === 'Escape' && onClose()}>
      <div class="look-head">
        <h2 tabIndex={-1} ref={heading}>
          How it looked
        </h2>
        <IconButton icon="close" label="Close the heat maps" onClick={onClose} />
      </div>
      {look.explanation ? (
        <LookView explanation={look.explanation} picture={picture} />
      ) : (
        <>
          <HeatPicture picture={picture} grid={undefined} description="" />
          <p role="status" class={look.error === undefined ? 'waiting' : 'failure'}>
            {look.error ?? 'Reading the model’s attention'}
          </p>
        </>
      )}
    </div>
  );
}

function LookView({
  explanation,
  picture,
}: {
  readonly explanation: Explanation;
  readonly picture: Picture;
}) {
  const views = viewsOf(explanation);
  const [choice, setChoice] = useState<Choice>({
    view: views[0] ?? 'answer',
    layer: undefined,
    item: undefined,
  });
  const [preview, setPreview] = useState<number | undefined>();
  const shown = useMemo(
    () => ({ ...choice, item: preview === undefined ? choice.item : preview < 0 ? undefined : preview }),
    [choice, preview],
  );
  const grid = useMemo(() => mapOf(explanation, shown), [explanation, shown]);
  const { view, layer } = choice;
  const layers = layerNames(explanation, view);
  const items = itemNames(explanation, view);
  const layerText = layer === undefined ? 'mean of all layers' : (layers[layer] ?? '');
  const description = `${itemText(view, items, shown.item)}, ${layerText}: ${describePeak(grid)}.`;
  return (
    <>
      <Segments
        views={views}
        view={view}
        onView={(view) => setChoice({ view, layer: undefined, item: undefined })}
      />
      <HeatPicture picture={picture} grid={grid} description={description} />
      <p class="look-about">{VIEWS[view].about}</p>
      <LayerField
        layers={layers}
        layer={layer}
        text={layerText}
        onLayer={(layer) => setChoice({ ...choice, layer })}
      />
      <Items
        {...{ view, items }}
        item={choice.item}
        onItem={(item) => setChoice({ ...choice, item })}
        onPreview={setPreview}
      />
    </>
  );
}

function itemText(view: View, items: readonly string[], item: number | undefined): string {
  if (item === undefined) return VIEWS[view].all;
  return view === 'latents' ? `Latent ${items[item]}` : `“${items[item]}”`;
}

function Segments(props: {
  readonly views: readonly View[];
  readonly view: View;
  readonly onView: (view: View) => void;
}) {
  return (
    <fieldset class="segments">
      <legend class="hidden-text">What to show</legend>
      {props.views.map((view) => (
        <label key={view} class="segment">
          <input
            type="radio"
            name="look-view"
            checked={view === props.view}
            onChange={() => props.onView(view)}
          />
          <span>{VIEWS[view].name}</span>
        </label>
      ))}
    </fieldset>
  );
}

/** A slider whose first place is the mean of all layers. */
function LayerField(props: {
  readonly layers: readonly string[];
  readonly layer: number | undefined;
  readonly text: string;
  readonly onLayer: (layer: number | undefined) => void;
}) {
  const { layers, layer, text, onLayer } = props;
  if (layers.length < 2) return null;
  return (
    <div class="layer-field">
      <label for="look-layer">Layer</label>
      <input
        id="look-layer"
        type="range"
        min={0}
        max={layers.length}
        value={layer === undefined ? 0 : layer + 1}
        aria-valuetext={text}
        onInput={({ currentTarget: { valueAsNumber } }) =>
          onLayer(valueAsNumber === 0 ? undefined : valueAsNumber - 1)
        }
      />
      <output for="look-layer">{text}</output>
    </div>
  );
}

/** Tokens or latents to choose from; the pointer shows one while it rests there. */
function Items(props: {
  readonly view: View;
  readonly items: readonly string[];
  readonly item: number | undefined;
  readonly onItem: (item: number | undefined) => void;
  /** -1 is all of them. */
  readonly onPreview: (item: number | undefined) => void;
}) {
  const { view, items, item, onItem, onPreview } = props;
  const columns = view === 'latents' ? Math.round(Math.sqrt(items.length)) : undefined;
  const chip = (index: number, name: string) => (
    <label
      key={index}
      class={index < 0 ? 'chip all' : 'chip'}
      onPointerEnter={(event) => event.pointerType === 'mouse' && onPreview(index)}
      onPointerLeave={() => onPreview(undefined)}
    >
      <input
        type="radio"
        name="look-item"
        checked={(item ?? -1) === index}
        onChange={() => onItem(index < 0 ? undefined : index)}
      />
      <span>{name}</span>
    </label>
  );
  return (
    <fieldset class="items">
      <legend class="hidden-text">{view === 'latents' ? 'Latent' : 'Token'}</legend>
      {columns !== undefined && chip(-1, VIEWS[view].all)}
      <div
        class={columns === undefined ? 'chips' : 'chips latents'}
        style={columns === undefined ? {} : { gridTemplateColumns: `repeat(${columns}, minmax(0, 3rem))` }}
      >
        {columns === undefined && chip(-1, VIEWS[view].all)}
        {items.map((name, index) => chip(index, name))}
      </div>
    </fieldset>
  );
}
