/** A map drawn over a picture in grey, one colour a cell, with its legend. Knows nothing of what the map means. */
import { useLayoutEffect, useRef, useState } from 'preact/hooks';
import { HEAT_COLOURS, percent, rangeOf } from '../../src/common/heat.ts';
import { type Grid, heatPixels } from './heat.ts';
import type { Picture } from './picture.ts';

const SCALE = `linear-gradient(to right, ${HEAT_COLOURS.map((rgb) => `rgb(${rgb.join(' ')})`).join(', ')})`;

export interface HeatPictureProps {
  readonly picture: Picture;
  /** Undefined while there is none yet. */
  readonly grid: Grid | undefined;
  readonly description: string;
}

interface Cell {
  readonly row: number;
  readonly column: number;
}

export function HeatPicture({ picture, grid, description }: HeatPictureProps) {
  const [cell, setCell] = useState<Cell | undefined>();
  return (
    <figure class="shown" style={{ '--ratio': picture.width / picture.height }}>
      <div class="frame">
        <img class="grey" src={picture.dataUri} alt={`Your picture: ${picture.name}`} />
        {grid && <HeatCanvas grid={grid} description={description} onCell={setCell} />}
      </div>
      {grid && (
        <figcaption class="heat-caption">
          <Legend grid={grid} cell={cell} />
          <p class="look-text" role="status">
            {description}
          </p>
        </figcaption>
      )}
    </figure>
  );
}

function HeatCanvas(props: {
  readonly grid: Grid;
  readonly description: string;
  readonly onCell: (cell: Cell | undefined) => void;
}) {
  const { grid, description, onCell } = props;
  const canvas = useRef<HTMLCanvasElement>(null);
  const { rows, columns } = grid;
  // Before the browser shows the canvas: it is never seen empty.
  useLayoutEffect(() => {
    const context = canvas.current?.getContext('2d');
    context?.putImageData(new ImageData(heatPixels(grid), columns, rows), 0, 0);
  }, [grid, rows, columns]);
  return (
    <canvas
      ref={canvas}
      class="heat"
      width={columns}
      height={rows}
      role="img"
      aria-label={`Heat map. ${description}`}
      onPointerMove={({ offsetX, offsetY, currentTarget: { clientWidth, clientHeight } }) =>
        onCell({
          row: Math.min(Math.max(Math.floor((offsetY / clientHeight) * rows), 0), rows - 1),
          column: Math.min(Math.max(Math.floor((offsetX / clientWidth) * columns), 0), columns - 1),
        })
      }
      onPointerLeave={() => onCell(undefined)}
    />
  );
}

/** The colours from the least to the largest value, and the value under the pointer. */
function Legend({ grid, cell }: { readonly grid: Grid; readonly cell: Cell | undefined }) {
  const { least, largest } = rangeOf(grid.values);
  const value = cell && grid.values[cell.row * grid.columns + cell.column];
  const place = value === undefined ? undefined : (value - least) / (largest - least || 1);
  return (
    <div class="legend">
      <span>{percent(least)}</span>
      <span class="scale" style={{ background: SCALE }} aria-hidden="true">
        {place !== undefined && <span class="needle" style={{ left: `${100 * place}%` }} />}
      </span>
      <span>{percent(largest)}</span>
      <span class="under" aria-hidden="true">
        {value === undefined ? 'of attention' : `here ${percent(value)}`}
      </span>
    </div>
  );
}
