"""The recipes that `compress run NAME` finds by name, also from an installed wheel."""
