/** Leaving the event loop to others for a moment. */

/** Resolves when what waits in the event loop has had its turn. */
export const nextTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
