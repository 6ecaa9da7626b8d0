/**
 * A model's Markdown → elements that are safe to show: text and its structure, no pictures, forms or styles, and
 * links that open elsewhere. Nothing in it makes the browser send a request. Knows nothing of conversations.
 */
import DOMPurify from 'dompurify';
import { Marked } from 'marked';

const ALLOWED_TAGS = [
  ...['p', 'br', 'hr', 'blockquote', 'pre', 'code', 'h1', 'h2', 'h3', 'h4', 'h5', 'h6'],
  ...['ul', 'ol', 'li', 'strong', 'em', 'del', 'sup', 'sub', 'a'],
  ...['table', 'thead', 'tbody', 'tr', 'th', 'td'],
];
const ALLOWED_ATTR = ['href', 'title', 'start', 'align'];
const ALLOWED_URI_REGEXP = /^(?:https?:|mailto:)/i;

/** HTML that a model writes is text like any other. */
const markdown = new Marked({
  async: false,
  gfm: true,
  breaks: true,
  renderer: {
    html: (token) => {
      const text = token.text.replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);
      return 'block' in token && token.block ? `<p>${text}</p>` : text;
    },
  },
});

/** Headings of an answer stand below the page's own. */
const TOP_HEADING = 3;

export function renderMarkdown(text: string): DocumentFragment {
  const html = markdown.parse(text, { async: false });
  const safe = DOMPurify.sanitize(html, {
    ALLOWED_TAGS,
    ALLOWED_ATTR,
    ALLOWED_URI_REGEXP,
    ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false,
    RETURN_DOM_FRAGMENT: true,
  });
  for (const link of safe.querySelectorAll('a')) {
    link.target = '_blank';
    link.rel = 'noopener noreferrer nofollow';
  }
  for (const block of safe.querySelectorAll('pre')) block.tabIndex = 0;
  lowerHeadings(safe);
  return safe;
}

function lowerHeadings(safe: DocumentFragment): void {
  for (const heading of safe.querySelectorAll('h1, h2, h3, h4, h5, h6')) {
    const level = Math.min(Number(heading.tagName.slice(1)) + TOP_HEADING - 1, 6);
    const lower = document.createElement(`h${level}`);
    lower.append(...heading.childNodes);
    heading.replaceWith(lower);
  }
}
