--[[
Small differences between what the author writes and what pandoc's writers expect: alternative
texts, author names, widths of tables and their scroll box, the hanging indent of references. Runs
after citations.
]]

local function plain(value)
  return pandoc.utils.stringify(value)
end

-- fig-alt is the text for those who do not see the picture; the caption stays the caption.
local function alternative_text(image)
  local text = image.attributes["fig-alt"]
  if text then
    image.attributes["fig-alt"] = nil
    image.caption = pandoc.Inlines(text)
    return image
  end
end

-- An author is a name, or a map with name and affiliation (or affiliations).
local function authors(meta)
  if meta.author == nil then
    return nil
  end
  local list = pandoc.utils.type(meta.author) == "List" and meta.author or { meta.author }
  local lines, strings = pandoc.List {}, pandoc.List {}
  for _, author in ipairs(list) do
    local name = pandoc.utils.type(author) == "Inlines" and author or author.name
    name = plain(name.literal or name)
    local line = name
    local places = pandoc.utils.type(author) == "table"
      and (author.affiliations or author.affiliation)
    if places then
      for _, place in ipairs(pandoc.utils.type(places) == "List" and places or { places }) do
        line = line .. ", " .. plain(place.name or place)
      end
    end
    lines:insert(pandoc.MetaInlines(pandoc.Inlines(line)))
    strings:insert(pandoc.MetaInlines { pandoc.RawInline("typst", string.format("%q", name)) })
  end
  meta.author = pandoc.MetaList(lines)
  if FORMAT == "typst" then
    meta["author-string"] = pandoc.MetaList(strings)
  end
  return meta
end

-- tbl-colwidths: false (of the project) leaves the widths of columns to the cells, "[20,80]" (of one
-- table) sets them. Without this, pandoc gives a table with a long line widths by its dashes.
local widths_by_dashes = true

local function read_widths(meta)
  widths_by_dashes = meta["tbl-colwidths"] ~= false
end

local function widths(tbl)
  local own = tbl.attributes["tbl-colwidths"]
  tbl.attributes["tbl-colwidths"] = nil
  if own then
    local parts, total = {}, 0
    for part in own:gmatch("[%d.]+") do
      parts[#parts + 1] = tonumber(part)
      total = total + tonumber(part)
    end
    assert(#parts == #tbl.colspecs, "tbl-colwidths " .. own .. " does not fit the columns")
    for i, spec in ipairs(tbl.colspecs) do
      tbl.colspecs[i] = { spec[1], parts[i] / math.max(total, 100) }
    end
  elseif not widths_by_dashes then
    for i, spec in ipairs(tbl.colspecs) do
      tbl.colspecs[i] = { spec[1] }
    end
  end
end

local function lay_table(tbl)
  widths(tbl)
  if FORMAT:match("^html") then
    -- The caption's words stay in sight while the table under them scrolls.
    tbl.caption.long = tbl.caption.long:walk {
      Plain = function(plain)
        return pandoc.Plain { pandoc.Span(plain.content, { class = "stay" }) }
      end,
    }
    return pandoc.Div(tbl, { class = "table-scroll" })
  end
  return tbl
end

local function references(div)
  if FORMAT == "typst" and div.identifier == "refs" then
    return pandoc.Blocks {
      pandoc.RawBlock("typst", "#[\n#set par(hanging-indent: 1.5em, justify: false)"),
      div,
      pandoc.RawBlock("typst", "]"),
    }
  end
end

return {
  { Meta = read_widths },
  { Image = alternative_text, Table = lay_table, Div = references, Meta = authors },
}
