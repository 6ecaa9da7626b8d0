/** The whole page: what its parts share, and where they stand. */
import { useEffect, useState } from 'preact/hooks';
import { explain } from './api.ts';
import { Composer } from './composer.tsx';
import { type Exchange, messagesOf } from './conversation.ts';
import { Exchanges } from './exchanges.tsx';
import { Header } from './header.tsx';
import { LookPanel } from './look.tsx';
import { pictureFile } from './picture.ts';
import { PicturePane } from './picturePane.tsx';
import { loadSettings, saveSettings } from './settings.ts';
import { SettingsDialog } from './settingsDialog.tsx';
import { useChat } from './useChat.ts';
import { useLook } from './useLook.ts';
import { usePicture } from './usePicture.ts';
import { type Server, useServer } from './useServer.ts';

export function App() {
  const server = useServer();
  const [settings, setSettings] = useState(() => loadSettings(localStorage));
  const [settingsOpen, openSettings] = useState(false);
  useEffect(() => saveSettings(localStorage, settings), [settings]);
  const talk = useTalk(server, settings);
  return (
    <>
      <Header server={server} onNew={talk.restart} onSettings={() => openSettings(true)} />
      <Workspace server={server} talk={talk} />
      <SettingsDialog
        open={settingsOpen}
        settings={settings}
        onChange={setSettings}
        server={server}
        onClose={() => openSettings(false)}
      />
    </>
  );
}

type Talk = ReturnType<typeof useTalk>;

/** The picture, the conversation about it and the look at an answer: what begins and ends together. */
function useTalk(server: Server, settings: Parameters<typeof useChat>[0]['settings']) {
  const pictures = usePicture(server.health?.limits ?? {});
  const image = pictures.picture?.dataUri;
  const chat = useChat({ model: server.model?.id, image, settings, key: server.key });
  const look = useLook();
  const clear = () => {
    chat.clear();
    look.close();
  };
  const onFile = (file: File | Promise<File> | undefined) => {
    if (file !== undefined) pictures.take(file, chat.exchanges.length > 0);
  };
  useDroppedAndPasted(onFile);
  const restart = () => {
    clear();
    pictures.remove();
    document.querySelector<HTMLElement>('#question')?.focus();
  };
  const restartWith = (file: File) => {
    clear();
    pictures.choose(file);
  };
  const lookAt = (exchange: Exchange) => {
    const before = chat.exchanges.slice(0, chat.exchanges.indexOf(exchange));
    const messages = messagesOf(before, exchange.question, image);
    const ask = { model: exchange.model, messages, sampling: replayOf(exchange) };
    look.open(exchange.id, (signal) => explain(ask, server.key, signal));
  };
  return { pictures, chat, look, onFile, restart, restartWith, lookAt };
}

function Workspace({ server, talk }: { readonly server: Server; readonly talk: Talk }) {
  const { pictures, chat, look } = talk;
  const { picture, opening } = pictures;
  const waiting = opening ? 'The picture is being opened' : server.status;
  const ready = server.ready && !opening;
  const explains = (name: string | undefined) =>
    picture !== undefined && server.models.some(({ id, fusion }) => id === name && fusion.explains);
  return (
    <main class="workspace">
      <PicturePane
        picture={picture}
        opening={opening}
        notice={pictures.notice}
        begun={chat.exchanges.length > 0}
        onFile={talk.onFile}
        onChoose={talk.restartWith}
        onDismiss={pictures.dismiss}
        onRemove={pictures.remove}
      >
        {picture && look.state && (
          <LookPanel key={look.state.id} look={look.state} picture={picture} onClose={look.close} />
        )}
      </PicturePane>
      <section class="talk" aria-label="Conversation">
        <Exchanges
          chat={chat}
          hasPicture={picture !== undefined}
          votes={server.health?.votes ?? false}
          looking={look.state?.id}
          canLook={({ model }) => explains(model)}
          onLook={talk.lookAt}
        />
        <Composer chat={chat} ready={ready} hint={ready ? undefined : waiting} />
      </section>
    </main>
  );
}

/** The sampling that gives an answer again: one that was stopped only as far as it came. */
function replayOf({ state, sampling, pieces }: Exchange): Readonly<Record<string, number>> {
  return state === 'stopped' ? { ...sampling, max_tokens: Math.max(pieces, 1) } : sampling;
}

function useDroppedAndPasted(onFile: (file: File | undefined) => void): void {
  useEffect(() => {
    const allow = (event: DragEvent) => event.preventDefault();
    const drop = (event: DragEvent) => {
      event.preventDefault();
      onFile(pictureFile(event.dataTransfer));
    };
    const paste = (event: ClipboardEvent) => {
      const file = pictureFile(event.clipboardData);
      if (file === undefined) return;
      event.preventDefault();
      onFile(file);
    };
    document.addEventListener('dragover', allow);
    document.addEventListener('drop', drop);
    document.addEventListener('paste', paste);
    return () => {
      document.removeEventListener('dragover', allow);
      document.removeEventListener('drop', drop);
      document.removeEventListener('paste', paste);
    };
  });
}
