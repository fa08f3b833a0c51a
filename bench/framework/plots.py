"""SVG plots by gnuplot. Beside each NAME.svg lies NAME.gp, script and numbers in one: `gnuplot NAME.gp` draws it again."""
import dataclasses
import shutil
import subprocess

COLOURS = ("#1b6ca8", "#c1440e", "#3b7d3a", "#7a4d9f", "#8a6d1a", "#444444")


class NoPlot(Exception):
    """Why a plot could not be drawn; the numbers are in the JSON all the same."""


@dataclasses.dataclass
class Plot:
    """kind "points": each series is (label, [(x, y)]).  "lines": the same, joined.
    "bars": each series is (label, [(low, middle, high)] ), one for each word of `categories`."""

    name: str
    title: str
    xlabel: str
    ylabel: str
    series: list
    kind: str = "points"
    categories: tuple = ()
    logscale: str = ""        # "x", "y" or "xy"
    from_zero: bool = True    # of the y axis


def quote(text):
    return "'" + text.replace("'", "''") + "'"


def block(index, rows):
    lines = "\n".join(" ".join(f"{value:.9g}" if not isinstance(value, str) else f'"{value}"' for value in row)
                      for row in rows)
    return f"$data{index} << END\n{lines}\nEND\n"


def script(plot, output):
    out = [f"set terminal svg size 800,420 dynamic font 'sans-serif,13' background 'white'\nset output {quote(output)}\n"
           f"set title {quote(plot.title)} noenhanced\nset xlabel {quote(plot.xlabel)} noenhanced\n"
           f"set ylabel {quote(plot.ylabel)} noenhanced\nset grid ytics lc rgb '#dddddd'\nset border 3\n"
           "set tics nomirror\nset key above noenhanced\n"]
    if plot.logscale:
        out.append(f"set logscale {plot.logscale}\n")
    if plot.from_zero and "y" not in plot.logscale:
        out.append("set yrange [0:*]\n")
    if len(plot.series) == 1:
        out.append("unset key\n")  # the title says it
    parts = []
    if plot.kind == "bars":
        out.append("set style data histogram\nset style histogram errorbars gap 2 lw 1\nset style fill solid 0.85\n"
                   "set xtics noenhanced\n")
        for index, (label, values) in enumerate(plot.series):
            out.append(block(index, [(category, middle, low, high) for category, (low, middle, high)
                                     in zip(plot.categories, values)]))
            parts.append(f"$data{index} using 2:3:4:xtic(1) title {quote(label)} lc rgb '{COLOURS[index % 6]}'")
    else:
        how = {"points": "points pt 7 ps 0.35", "lines": "linespoints pt 7 ps 0.5 lw 1.5"}[plot.kind]
        for index, (label, values) in enumerate(plot.series):
            out.append(block(index, values))
            parts.append(f"$data{index} using 1:2 with {how} lc rgb '{COLOURS[index % 6]}' title {quote(label)}")
    out.append("plot " + ", \\\n     ".join(parts) + "\n")
    return "".join(out)


def draw(plot, folder, prefix):
    """Writes PREFIX-NAME.gp and .svg into the folder; returns the path of the SVG. NoPlot says why not."""
    svg = folder / f"{prefix}-{plot.name}.svg"
    source = svg.with_suffix(".gp")
    source.write_text(script(plot, svg.name), encoding="utf-8")
    if not shutil.which("gnuplot"):
        raise NoPlot(f"gnuplot is not installed: {svg.name} is not drawn (scripts/install-packages bench, then: "
                     f"cd {folder} && gnuplot {source.name})")
    done = subprocess.run(["gnuplot", source.name], cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace", check=False)
    if done.returncode != 0 or not svg.exists() or svg.stat().st_size == 0:
        raise NoPlot(f"gnuplot could not draw {svg.name}: {done.stdout.strip()[-300:] or 'it gave no reason'}")
    return svg
