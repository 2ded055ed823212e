"""Tables for people: columns of text, aligned."""

Cells = tuple[str, ...]


def table(rows: list[Cells]) -> list[str]:
    """Lines of a table whose first row names the columns: numbers and - to the right, all else to the left."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [all(cell[:1].isdigit() or cell in ("", "-") for cell in column[1:]) for column in columns]
    return [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in rows
    ]
