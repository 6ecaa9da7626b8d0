/**
 * The numbers that stand among token ids and labels for what is not a token.
 *
 * They are negative, so no tokenizer produces them. Source: spec "The sequence"; the released configs use the same.
 */

/** In the token ids: here the image goes (the sequence's first placeholder receives the image tokens). */
export const IMAGE = -200;
/** In the token ids: here a question's latents go. */
export const LATENT = -300;
/** In the labels: not supervised. */
export const IGNORE = -100;
/** In the labels: the last token of an assistant header, where a question has been read to its end. */
export const END_OF_QUESTION = -400;
