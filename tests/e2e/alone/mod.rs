//! What disturbs everything else on the cluster, one after the other and by itself: a node is emptied or dies, the operator or the
//! definition of its resource is taken away, fifty instances come at once.

mod absent;
mod drain;
mod install;
mod isolation;
mod node;
