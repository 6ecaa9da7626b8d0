/** Light or dark: as the system has it until the user says otherwise. */
import { useEffect, useState } from 'preact/hooks';

export type Theme = 'light' | 'dark';

const KEY = 'fusion.theme';
const system = matchMedia('(prefers-color-scheme: dark)');

const ofSystem = (): Theme => (system.matches ? 'dark' : 'light');

function kept(): Theme | undefined {
  const theme = localStorage.getItem(KEY);
  return theme === 'light' || theme === 'dark' ? theme : undefined;
}

export function useTheme(): { readonly theme: Theme; readonly toggle: () => void } {
  const [theme, setTheme] = useState<Theme>(() => kept() ?? ofSystem());
  useEffect(() => {
    document.documentElement.dataset.theme = theme;
  }, [theme]);
  useEffect(() => {
    const follow = () => setTheme(kept() ?? ofSystem());
    system.addEventListener('change', follow);
    return () => system.removeEventListener('change', follow);
  }, []);
  const toggle = () => {
    const other = theme === 'dark' ? 'light' : 'dark';
    localStorage.setItem(KEY, other);
    setTheme(other);
  };
  return { theme, toggle };
}
