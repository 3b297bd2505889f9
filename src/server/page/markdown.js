/**
 * A model's text as markup. What a model writes is not to be trusted: the markup is cleaned, and it may load nothing from anywhere (no pictures,
 * no frames, no styles), which the page's content policy holds to as well.
 */

import { marked } from './marked.js';
import DOMPurify from './purify.js';

const RULES = {
  ALLOWED_TAGS: [
    ...['p', 'br', 'hr', 'strong', 'em', 'del', 'code', 'pre', 'blockquote', 'ul', 'ol', 'li'],
    ...['h1', 'h2', 'h3', 'h4', 'h5', 'h6', 'a', 'table', 'thead', 'tbody', 'tr', 'th', 'td'],
  ],
  ALLOWED_ATTR: ['href', 'title', 'start', 'align'],
  ALLOWED_URI_REGEXP: /^(?:https?:|mailto:)/i,
  RETURN_DOM_FRAGMENT: true,
};

const escaped = (text) =>
  text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');

// What is cleaned away below would be gone from the answer: markup and pictures are shown as the text that they are, boxes as signs.
marked.use({
  renderer: {
    html: ({ text }) => escaped(text),
    image: ({ text, href }) => escaped(`![${text}](${href})`),
    checkbox: ({ checked }) => (checked ? '☑ ' : '☐ '),
  },
});

DOMPurify.addHook('afterSanitizeAttributes', (node) => {
  if (node.tagName !== 'A') return;
  node.setAttribute('target', '_blank');
  node.setAttribute('rel', 'noopener noreferrer nofollow');
});

/** Shows `text` in `element`, in the place of what was there. */
export function showMarkdown(element, text) {
  element.replaceChildren(
    DOMPurify.sanitize(marked.parse(text, { gfm: true, breaks: true }), RULES),
  );
}
