"""Extensions of Tandem from outside of it; one module for each kind of extension."""
