/** The picture: where it is dropped or chosen, and where it stands. Heat maps over it are its children. */
import type { ComponentChildren } from 'preact';
import { useId, useState } from 'preact/hooks';
import scene from '../../examples/scene.png';
import hearts from '../samples/hearts.png';
import night from '../samples/night.png';
import word from '../samples/word.png';
import { Icon, IconButton } from './icons.tsx';
import type { Picture } from './picture.ts';
import type { Notice } from './usePicture.ts';

const SAMPLES = [
  { name: 'circles', address: scene, what: 'circles and a square' },
  { name: 'hearts', address: hearts, what: 'hearts and a star' },
  { name: 'word', address: word, what: 'a word and shapes' },
  { name: 'night', address: night, what: 'shapes on dark tiles' },
] as const;

export interface PicturePaneProps {
  readonly picture: Picture | undefined;
  readonly opening: boolean;
  readonly notice: Notice | undefined;
  readonly begun: boolean;
  readonly onFile: (file: File | Promise<File> | undefined) => void;
  /** Begins a new conversation with a picture. */
  readonly onChoose: (file: File) => void;
  readonly onDismiss: () => void;
  readonly onRemove: () => void;
  /** Stands in place of the plain picture. */
  readonly children?: ComponentChildren;
}

export function PicturePane(props: PicturePaneProps) {
  const { picture, opening, begun, children } = props;
  return (
    <section class="stage" aria-label="Picture" aria-busy={opening}>
      <NoticeLine {...props} />
      {children ||
        (picture ? (
          <Shown picture={picture} begun={begun} onRemove={props.onRemove} />
        ) : (
          <Chooser onFile={props.onFile} />
        ))}
    </section>
  );
}

function NoticeLine({ notice, onChoose, onDismiss }: PicturePaneProps) {
  return (
    <div class="notice-place" role="status">
      {notice && (
        <div class="notice">
          <span>{notice.text}</span>
          {notice.file && <NewWith file={notice.file} onChoose={onChoose} />}
          <IconButton icon="close" label="Dismiss" onClick={onDismiss} />
        </div>
      )}
    </div>
  );
}

function NewWith({ file, onChoose }: { readonly file: File; readonly onChoose: (file: File) => void }) {
  return (
    <button type="button" class="quiet" onClick={() => onChoose(file)}>
      Begin a new one with it
    </button>
  );
}

function Shown(props: { readonly picture: Picture; readonly begun: boolean; readonly onRemove: () => void }) {
  const { picture, begun, onRemove } = props;
  return (
    <figure class="shown" style={{ '--ratio': picture.width / picture.height }}>
      <div class="frame">
        <img src={picture.dataUri} alt={`Your picture: ${picture.name}`} />
      </div>
      <figcaption>
        <span class="picture-name">{picture.name}</span>
        <span class="faint">
          {picture.width} × {picture.height}
        </span>
        {!begun && <IconButton icon="close" label="Remove the picture" onClick={onRemove} />}
      </figcaption>
    </figure>
  );
}

function Chooser({ onFile }: { readonly onFile: (file: File | Promise<File> | undefined) => void }) {
  const id = useId();
  const [over, setOver] = useState(false);
  return (
    <div class="chooser">
      <label
        class="drop"
        for={id}
        data-over={over}
        onDragEnter={() => setOver(true)}
        onDragLeave={() => setOver(false)}
      >
        <Icon name="picture" />
        <strong>Choose a picture</strong>
        <span class="faint">or drop it anywhere, or paste it</span>
        <input
          id={id}
          class="hidden-input"
          type="file"
          accept="image/*"
          onChange={(event) => {
            onFile(event.currentTarget.files?.[0]);
            event.currentTarget.value = '';
          }}
        />
      </label>
      <Samples onFile={onFile} />
    </div>
  );
}

function Samples({ onFile }: { readonly onFile: (file: File | Promise<File> | undefined) => void }) {
  const take = async (address: string, name: string) => {
    const blob = await (await fetch(address)).blob();
    return new File([blob], `${name}.png`, { type: 'image/png' });
  };
  return (
    <div class="samples">
      <p class="faint" id="samples-title">
        Or take one of these
      </p>
      <ul aria-labelledby="samples-title">
        {SAMPLES.map(({ name, address, what }) => (
          <li key={name}>
            <button type="button" class="sample" onClick={() => onFile(take(address, name))}>
              <img src={address} alt={`Sample: ${what}`} width="96" height="96" />
            </button>
          </li>
        ))}
      </ul>
    </div>
  );
}
