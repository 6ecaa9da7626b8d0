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
  /** Whether one is being opened: a question that was sent now would go without it. */
  readonly opening: boolean;
  readonly notice: Notice | undefined;
  /** A picture that was dropped, pasted or chosen: taken at once unless a conversation has begun. */
  readonly take: (file: File | Promise<File>, begun: boolean) => void;
  /** Taken in any case. */
  readonly choose: (file: File | Promise<File>) => void;
  readonly dismiss: () => void;
  readonly remove: () => void;
}

const ONE_PICTURE = 'A conversation is about one picture.';

export function usePicture(limits: ImageLimits): PictureChoice {
  const [picture, setPicture] = useState<Picture | undefined>();
  const [notice, setNotice] = useState<Notice | undefined>();
  const [opening, setOpening] = useState(false);
  const dismiss = () => setNotice(undefined);
  const remove = () => {
    setPicture(undefined);
    dismiss();
  };
  const open = async (coming: File | Promise<File>) => {
    setOpening(true);
    try {
      const file = await coming;
      const opened = await openPicture(file, file.name, limits);
      setPicture(opened);
      setNotice(opened.note === undefined ? undefined : { text: opened.note });
    } catch (error) {
      setNotice({ text: error instanceof Error ? error.message : String(error) });
    } finally {
      setOpening(false);
    }
  };
  const choose = (file: File | Promise<File>) => void open(file);
  const take = async (file: File | Promise<File>, begun: boolean) => {
    if (begun) setNotice({ text: ONE_PICTURE, file: await file });
    else choose(file);
  };
  return {
    picture,
    opening,
    notice,
    take: (file, begun) => void take(file, begun),
    choose,
    dismiss,
    remove,
  };
}
