"""Reading a client's document and giving back what it selected."""

import pytest

from services.sandbox.graphql import GraphqlError, choose_operation, project, read_document


def test_aliases_fragments_directives_and_defaults_are_understood() -> None:
    document = read_document(
        """
        query Find($ids: [ID!]!, $first: Int = 5, $with: Boolean!) {
          mine: nodes(ids: $ids) { ...item @include(if: $with) ... on Shop { name } }  # a comment
        }
        fragment item on InventoryItem { id, levels: inventoryLevels(first: $first) { nodes { id } } }
        """
    )
    operation = choose_operation(document, None)
    assert (operation.kind, operation.name, operation.defaults) == ("query", "Find", {"first": 5})
    asked = []

    def levels(args: dict) -> dict:
        asked.append(args)
        return {"__typename": "Levels", "nodes": [{"__typename": "Level", "id": "l"}]}

    item = {"__typename": "InventoryItem", "id": "i", "inventoryLevels": levels}
    root = operation.selections[0]
    assert root.alias == "mine"
    variables = {**operation.defaults, "with": True}
    assert project(item, root.selections, document, variables) == {"id": "i", "levels": {"nodes": [{"id": "l"}]}}
    assert asked == [{"first": 5}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("query { shop { name }", "unexpected end of file"),
        ("subscription { shop { name } }", "unexpected subscription"),
        ("query { shop(id: \u00a7) }", "unexpected character"),
        ("", "no operation"),
        ("{a" * 30, "nested deeper"),
    ],
)
def test_a_broken_document_is_refused_with_its_reason(text: str, message: str) -> None:
    with pytest.raises(GraphqlError, match=message):
        read_document(text)


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ("{ nonsense }", "doesn't exist on type 'Shop'"),
        ("{ plan }", "must have selections"),
        ("{ name { first } }", "scalars"),
    ],
)
def test_a_selection_that_does_not_fit_is_an_error(selection: str, message: str) -> None:
    document = read_document(selection)
    shop = {"__typename": "Shop", "name": "loja", "plan": {"__typename": "Plan", "displayName": "Basic"}}
    with pytest.raises(GraphqlError, match=message):
        project(shop, choose_operation(document, None).selections, document, {})
