/** The conversation's one picture. Knows nothing of the conversation but whether it has begun. */
import { useState } from 'preact/hooks';
import type { ImageLimits } from './imagePlan.ts';
import { openPicture, type Picture } from './picture.ts';

/** What the user is told about a picture; with `file`, it can be had in a new conversation. */
export interface Notice {
  readonly text: string;
  readonly file?: File;
}

export interface PictureChoice {
  readonly picture: Picture | undefined;
  readonly notice: Notice | undefined;
  /** A picture that was dropped, pasted or chosen: taken at once unless a conversation has begun. */
  readonly take: (file: File, begun: boolean) => void;
  /** Taken in any case. */
  readonly choose: (file: File) => void;
  readonly dismiss: () => void;
  readonly remove: () => void;
}

const ONE_PICTURE = 'A conversation is about one picture.';

export function usePicture(limits: ImageLimits): PictureChoice {
  const [picture, setPicture] = useState<Picture | undefined>();
  const [notice, setNotice] = useState<Notice | undefined>();
  const dismiss = () => setNotice(undefined);
  const remove = () => {
    setPicture(undefined);
    dismiss();
  };
  const choose = (file: File) => {
    openPicture(file, file.name, limits).then(
      (opened) => {
        setPicture(opened);
        setNotice(opened.note === undefined ? undefined : { text: opened.note });
      },
      (error: unknown) => setNotice({ text: error instanceof Error ? error.message : String(error) }),
    );
  };
  const take = (file: File, begun: boolean) => {
    if (begun) setNotice({ text: ONE_PICTURE, file });
    else choose(file);
  };
  return { picture, notice, take, choose, dismiss, remove };
}
