"""How a result is shown: the offline HTML report, the terminal's face and the JSON document.

`clean` makes a result fit to show, `view` turns it into plain data, `charts` draws, `flame` packs the profiles,
`render` writes the page; `text` and `jsonable` are the other two faces. Nothing here judges anything.
"""
